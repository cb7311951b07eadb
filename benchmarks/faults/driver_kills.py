"""Kills the driver of a sweep with -9 at random moments, twice per sweep, and checks that nothing is lost or doubled.

    python -m benchmarks.faults.driver_kills [--rounds 20] [--minutes 60] [--seed 0]

Each round is a sweep of trivial runs (TPE, ASHA, checkpoints) that also logs to MLflow. The driver is killed a random
time after a random number of lines in its journal, or while Ray is still starting; it is resumed, killed again, and
resumed to the end. Then every trial must have ended once. Each of its epochs must be in the journal and in MLflow once,
with the same values. What was in the journal at a kill must still be there, and no process may be left.
The figures go to ``results/driver_kills.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster.processes import find_processes
from orchestrator.home import HOME_VARIABLE, sweep_dir
from orchestrator.sweep_folder.events import EpochReported, Event, TrialEnded
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import make_client
from orchestrator.tracking.run_tags import TRIAL_TAG
from training.metric_names import EPOCH, VAL_MAP

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ID = "trivial-00000001"
TRIALS, EPOCHS, EPOCH_S = 8, 6, 0.3
# The journal of an undisturbed sweep has about 50 lines.
MAX_LINES = 25
MAX_DELAY_S = 0.5
MAX_START_S = 10.0
RESULTS = Path(__file__).parents[1] / "results" / "driver_kills.md"
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        killed_at: The number of lines in the journal at each kill.
        seconds: How long the round took.
        epochs: Epochs in the journal at the end.
        lost, doubled: Epochs that the journal or MLflow lacks, or has more than once.
        orphans: Processes left running.
        faults: Everything that is wrong, one sentence each.
    """

    killed_at: tuple[int, ...]
    seconds: float
    epochs: int
    lost: int
    doubled: int
    orphans: int
    faults: tuple[str, ...]


def run_round(draws: random.Random) -> Round:
    """Run one sweep in a home of its own, kill its driver twice, and check the result."""
    started = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ[HOME_VARIABLE] = str(home)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    kills = [_kill_one(home, draws) for _ in range(2)]
    code = _start_driver(home).wait(_PATIENCE_S)
    faults = [] if code == 0 else [f"the last driver ended with {code}: {(home / 'driver.log').read_text()[-500:]}"]
    events, state = follow(sweep_dir(ID) / JOURNAL_FILE)[0], replay(sweep_dir(ID) / JOURNAL_FILE)
    known, logged = count_epochs(events), count_logged_epochs()
    due = Counter({key for then in [*kills, events] for key in count_epochs(then)})
    lost, doubled = sum(((due - known) | (due - logged)).values()), sum(((known - due) | (logged - due)).values())
    orphans = check_processes()
    faults += check_kept(kills, events) + check_journal(state) + check_mlflow(state) + orphans
    faults += [f"{lost} epochs are lost"] * bool(lost) + [f"{doubled} epochs are doubled"] * bool(doubled)
    if not faults:
        shutil.rmtree(home)
    killed_at = tuple(len(events_then) for events_then in kills)
    return Round(killed_at, time.monotonic() - started, sum(known.values()), lost, doubled, len(orphans), tuple(faults))


def count_epochs(events: list[Event]) -> Counter[tuple[int, int]]:
    """Return how often a journal has each (trial, epoch)."""
    return Counter((event.trial, event.epoch) for event in events if isinstance(event, EpochReported))


def count_logged_epochs() -> Counter[tuple[int, int]]:
    """Return how often MLflow has each (trial, epoch)."""
    client, logged = make_client(), Counter[tuple[int, int]]()
    for run in _trial_runs(client):
        trial = int(run.data.tags[TRIAL_TAG])
        logged.update((trial, point.step) for point in client.get_metric_history(run.info.run_id, VAL_MAP))
    return logged


def check_kept(kills: list[list[Event]], events: list[Event]) -> list[str]:
    """Return the events that were in the journal at a kill and are no longer there."""
    return [f"{event} is gone" for events_then in kills for event in events_then if event not in events]


def check_journal(state: SweepState) -> list[str]:
    """Return what is wrong with a finished sweep's journal."""
    events, _ = follow(sweep_dir(ID) / JOURNAL_FILE)
    keys = Counter(
        (type(event).__name__, event.trial, event.epoch if isinstance(event, EpochReported) else None)
        for event in events
        if isinstance(event, EpochReported | TrialEnded)
    )
    faults = [f"{key} is in the journal {count} times" for key, count in keys.items() if count > 1]
    if sorted(state.records) != list(range(TRIALS)):
        faults.append(f"trials are {sorted(state.records)}")
    for record in state.records.values():
        if not record.ended:
            faults.append(f"trial {record.trial} has not ended")
        if sorted(record.metrics) != list(range(1, record.last_epoch + 1)):
            faults.append(f"trial {record.trial} has a gap: epochs {sorted(record.metrics)}")
        if (record.state is TrialState.COMPLETE) != (record.last_epoch == EPOCHS):
            faults.append(f"trial {record.trial} is {record.state} after epoch {record.last_epoch}")
    return faults


def check_mlflow(state: SweepState) -> list[str]:
    """Return where MLflow differs from the journal."""
    client = make_client()
    runs = _trial_runs(client)
    faults = []
    counts = Counter(int(run.data.tags[TRIAL_TAG]) for run in runs)
    if counts != Counter(list(state.records)):
        faults.append(f"MLflow has runs of trials {dict(counts)}")
    for run in runs:
        record = state.records[int(run.data.tags[TRIAL_TAG])]
        for metric in (VAL_MAP, EPOCH):
            history = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]
            expected = [(epoch, values[metric]) for epoch, values in sorted(record.metrics.items())]
            if sorted(history) != expected:
                faults.append(f"MLflow has {metric} of trial {record.trial} at {history}, the journal {expected}")
    return faults


def check_processes() -> list[str]:
    """Return the processes of the sweep that are still running."""
    return [f"process {process.pid} is left" for process in find_processes(sweep_dir(ID))]


def main() -> int:
    """Run the rounds, print a line for each, and return 1 if any had a fault."""
    parser = argparse.ArgumentParser(description="Kill a sweep's driver twice at random moments, many times over.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no round after that")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draws = random.Random(arguments.seed)
    deadline = time.monotonic() + 60 * arguments.minutes
    rounds: list[Round] = []
    for number in range(1, arguments.rounds + 1):
        if rounds and time.monotonic() > deadline:
            break
        done = run_round(draws)
        rounds.append(done)
        outcome = "; ".join(done.faults) or "nothing lost, nothing doubled"
        print(
            f"{number:2d}/{arguments.rounds}: killed at journal lines {done.killed_at}, {done.seconds:.0f} s: "
            f"{outcome}",
            flush=True,
        )
    report = render_report(rounds, arguments.seed)
    print(report)
    RESULTS.write_text(report, encoding="utf-8")
    return 1 if any(done.faults for done in rounds) else 0


def render_report(rounds: list[Round], seed: int) -> str:
    """Return the figures as Markdown."""
    kills = [line for done in rounds for line in done.killed_at]
    figures = {
        "sweeps": len(rounds),
        "drivers killed with -9": len(kills),
        "... of them before the journal's first line": kills.count(0),
        "epochs in the journals at the end": sum(done.epochs for done in rounds),
        "epochs lost, in journal or MLflow": sum(done.lost for done in rounds),
        "epochs doubled, in journal or MLflow": sum(done.doubled for done in rounds),
        "orphans left": sum(done.orphans for done in rounds),
        "sweeps with any fault": sum(bool(done.faults) for done in rounds),
    }
    lines = [
        "# Drivers killed",
        "",
        f"{date.today()}; {os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}; "
        f"{TRIALS} trials of {EPOCHS} epochs, two at a time; two kills per sweep at random moments (seed {seed}); "
        f"median {statistics.median(done.seconds for done in rounds):.0f} s per sweep.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {figure} |" for name, figure in figures.items()),
    ]
    faults = [f"- sweep {number}: {fault}" for number, done in enumerate(rounds, start=1) for fault in done.faults]
    return "\n".join([*lines, *(["", *faults] if faults else [])]) + "\n"


def _trial_runs(client: MlflowClient) -> list[Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run for run in client.search_runs(experiments, max_results=1000) if TRIAL_TAG in run.data.tags]


def _kill_one(home: Path, draws: random.Random) -> list[Event]:
    """Start or resume a driver, kill it, and return the events in the journal at that moment."""
    before = _count_lines()
    driver = _start_driver(home)
    num_lines = draws.randint(0, MAX_LINES)
    deadline = time.monotonic() + _PATIENCE_S
    while _count_lines() < before + num_lines and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(draws.uniform(0, MAX_DELAY_S if num_lines else MAX_START_S))
    driver.kill()
    driver.wait()
    return follow(sweep_dir(ID) / JOURNAL_FILE)[0]


def _count_lines() -> int:
    return len(follow(sweep_dir(ID) / JOURNAL_FILE)[0])


def _start_driver(home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.kit.trivial_sweep", ID]
    command += ["--trials", str(TRIALS), "--epochs", str(EPOCHS), "--epoch-s", str(EPOCH_S)]
    with (home / "driver.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


if __name__ == "__main__":
    sys.exit(main())
