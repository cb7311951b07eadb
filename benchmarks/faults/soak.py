"""Runs two sweeps on three nodes and kills something every 10 s, by a seeded schedule, until all trials have finished.

    python -m benchmarks.faults.soak [--trials 46] [--wide-trials 4] [--minutes 30] [--seed 0]

One sweep has trials of one worker, the other trials of two workers on two nodes. Actors, workers, nodes, drivers and
the head with everything on it are killed with -9, each kind at least once. The clock of the schedule stops until a
killed driver, head or two-node trial reports again. At the end every trial must have finished, every epoch must be in
MLflow once, and no placement group and no process may be left. The figures go to ``results/soak.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from benchmarks.faults.cluster import FaultCluster
from benchmarks.faults.sweep import FaultSweep
from orchestrator.cluster.processes import find_processes
from orchestrator.home import HOME_VARIABLE, sweep_dir
from orchestrator.sweep_folder.records import TrialState

RESULTS = Path(__file__).parents[1] / "results" / "soak.md"
PERIOD_S = 10.0
EPOCHS, WIDE_EPOCHS, EPOCH_S = 20, 60, 1.0
_STEP_S = 0.2


@dataclass
class Soak:
    """One soak test.

    Attributes:
        cluster: Where both sweeps run.
        narrow: The sweep of one-worker trials.
        wide: The sweep of two-worker trials.
        draws: Chooses what to kill.
        deadline: When to give up, by the monotonic clock.
        deaths: How often each kind was killed.
        waited_s: How long the clock of the schedule was stopped.
    """

    cluster: FaultCluster
    narrow: FaultSweep
    wide: FaultSweep
    draws: random.Random
    deadline: float
    deaths: Counter[str] = field(default_factory=Counter)
    waited_s: float = 0.0
    _before: dict[str, dict[int, int]] = field(default_factory=dict)

    def run(self) -> None:
        """Start both sweeps, and keep killing until both are over."""
        self.wide.start()
        self.wide.wait_for(lambda: bool(self.wide.reports()), "first epoch")
        self.narrow.start()
        kinds = self._kinds()
        # One of each kind first, so that none is left out if the trials end early.
        schedule = list(kinds)
        self.draws.shuffle(schedule)
        while self._sleep(PERIOD_S):
            possible = [kind for kind in kinds if self._is_possible(kind)]
            due = [kind for kind in schedule if kind in possible and not self.deaths[kind]]
            kind = due[0] if due else self.draws.choice(possible)
            self._remember()
            began = time.monotonic()
            if not kinds[kind]():
                # There was nothing of this kind to kill: try again after the others.
                schedule.append(schedule.pop(schedule.index(kind)))
                continue
            self.deaths[kind] += 1
            print(f"{self._left()} epochs reported, {kind}: {time.monotonic() - began:.1f} s", flush=True)

    def check(self) -> list[str]:
        """Return what is wrong at the end."""
        faults = []
        for sweep in (self.narrow, self.wide):
            assert sweep.driver is not None
            if sweep.driver.poll() != 0:
                faults.append(f"{sweep.id}: the driver ended with {sweep.driver.poll()}: {sweep.log[-1000:]}")
            faults += sweep.check() + sweep.check_logged()
            faults += [
                f"process {process.pid} of {sweep.id} is left" for process in find_processes(sweep_dir(sweep.id))
            ]
        faults += [f"no {kind} died" for kind in self._kinds() if not self.deaths[kind]]
        return faults + [f"placement group {name} is left" for name in self.cluster.wait_for_no_groups()]

    def _kinds(self) -> dict[str, Callable[[], bool]]:
        return {
            "trial actor": lambda: self._kill_one("trial_narrow"),
            "Ray Train worker": lambda: self._kill_one("RayTrainWorker", self.wide),
            "actor above Ray Train workers": lambda: self._kill_one("train_trial", self.wide),
            "node of one-worker trials": lambda: self._kill_node("trial_narrow"),
            "node of a two-node trial": lambda: self._kill_node("RayTrainWorker", self.wide),
            "driver of one-worker trials": lambda: self._kill_driver(self.narrow),
            "driver of two-worker trials": lambda: self._kill_driver(self.wide),
            "head with everything": self._kill_head,
        }

    def _is_possible(self, kind: str) -> bool:
        if kind.startswith("head"):
            return True
        return _runs(self.narrow if "one-worker" in kind or kind == "trial actor" else self.wide)

    def _kill_one(self, word: str, waits_for: FaultSweep | None = None) -> bool:
        found = self.cluster.find(word)
        if not found:
            return False
        self.draws.choice(found).kill()
        self._wait_for(waits_for)
        return True

    def _kill_node(self, word: str, waits_for: FaultSweep | None = None) -> bool:
        nodes = [node for process in self.cluster.find(word) if (node := self.cluster.node_of(process)) is not None]
        if not nodes:
            return False
        self.cluster.kill_node(self.draws.choice(nodes))
        self.cluster.add_node()
        self._wait_for(waits_for)
        return True

    def _kill_driver(self, sweep: FaultSweep) -> bool:
        sweep.kill_driver()
        sweep.start()
        self._wait_for(sweep)
        return True

    def _kill_head(self) -> bool:
        running = [sweep for sweep in (self.wide, self.narrow) if _runs(sweep)]
        self.cluster.kill_head()
        for sweep in running:
            sweep.kill_driver()
        self.cluster.restart()
        # The two-node trial first, as at the beginning: on an empty cluster, two one-worker trials could take a node
        # each, and the two-node trial would wait until their sweep is over.
        for sweep in running:
            sweep.start()
            self._wait_for(sweep)
        return True

    def _wait_for(self, sweep: FaultSweep | None) -> None:
        """Wait until everything that was hit of a sweep reports again, or the sweep is over."""
        if sweep is None:
            return
        began = time.monotonic()
        while _runs(sweep) and not sweep.reported_since(self._before[sweep.id]) and time.monotonic() < self.deadline:
            time.sleep(_STEP_S)
        self.waited_s += time.monotonic() - began

    def _sleep(self, seconds: float) -> bool:
        """Sleep, and return whether a sweep still runs and there is time left."""
        until = time.monotonic() + seconds
        while (going := _runs(self.narrow) or _runs(self.wide)) and time.monotonic() < until:
            time.sleep(_STEP_S)
        return going and time.monotonic() < self.deadline

    def _remember(self) -> None:
        for sweep in (self.narrow, self.wide):
            sweep.remember()
            self._before[sweep.id] = sweep.attempts()

    def _left(self) -> int:
        return len(self.narrow.reports()) + len(self.wide.reports())


@dataclass(frozen=True)
class SoakSettings:
    """How large a soak test is.

    Attributes:
        trials, epochs: One-worker trials, and their epochs.
        wide_trials, wide_epochs: Two-worker trials, and their epochs.
        minutes: How long it may take.
        seed: Of the schedule.
    """

    trials: int
    wide_trials: int
    epochs: int
    wide_epochs: int
    minutes: float
    seed: int


def run_soak(folder: Path, settings: SoakSettings) -> tuple[Soak, list[str]]:
    """Run one soak test in a home of its own; return it and what is wrong."""
    os.environ[HOME_VARIABLE] = str(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    cluster = FaultCluster()
    # A node has two CPUs: a two-worker trial fills two nodes, and the third has room for two one-worker trials.
    wide = FaultSweep(
        cluster,
        folder,
        "wide-00000001",
        trials=settings.wide_trials,
        epochs=settings.wide_epochs,
        epoch_s=EPOCH_S,
        workers=2,
        cpus=2,
        tracking=True,
    )
    wide.changes = {"concurrency": 1}
    narrow = FaultSweep(
        cluster,
        folder,
        "narrow-00000001",
        trials=settings.trials,
        epochs=settings.epochs,
        epoch_s=EPOCH_S,
        tracking=True,
    )
    narrow.changes = {"concurrency": 2}
    soak = Soak(cluster, narrow, wide, random.Random(settings.seed), time.monotonic() + 60 * settings.minutes)
    try:
        soak.run()
        faults = soak.check()
    finally:
        for sweep in (narrow, wide):
            sweep.end()
        left = cluster.shutdown()
    return soak, faults + [f"process {title} is left" for title in left]


def render_report(soak: Soak, faults: list[str], seconds: float, seed: int) -> str:
    """Return the figures as Markdown."""
    records = [*soak.narrow.records().values(), *soak.wide.records().values()]
    figures: dict[str, object] = {
        "trials of one worker, of two": f"{soak.narrow.trials}, {soak.wide.trials}",
        "finished": sum(record.state is TrialState.COMPLETE for record in records),
        "attempts": sum(record.attempts for record in records),
        "epochs reported": len(soak.narrow.reports()) + len(soak.wide.reports()),
        "epochs lost or doubled in the journals": soak.narrow.count_lost() + soak.wide.count_lost(),
        "epochs in the journal that were run again": soak.narrow.count_run_again() + soak.wide.count_run_again(),
        "deaths": sum(soak.deaths.values()),
        **{f"... {kind}": count for kind, count in sorted(soak.deaths.items())},
        "minutes": f"{seconds / 60:.1f}",
        "... of them with the schedule's clock stopped": f"{soak.waited_s / 60:.1f}",
        "faults": len(faults),
    }
    epochs = f"{soak.narrow.epochs} of a one-worker trial and {soak.wide.epochs} of a two-worker trial"
    lines = [
        "# Soak",
        "",
        f"{date.today()}; {os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}; a head "
        f"and three raylets of two CPUs each on this machine; epochs of {EPOCH_S:g} s, {epochs}; "
        f"a death every {PERIOD_S:g} s by the schedule of seed {seed}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {figure} |" for name, figure in figures.items()),
    ]
    return "\n".join([*lines, *(["", *(f"- {fault}" for fault in faults)] if faults else [])]) + "\n"


def main() -> int:
    """Run the soak, print its report, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Run two sweeps and kill something every 10 s.")
    parser.add_argument("--trials", type=int, default=46)
    parser.add_argument("--wide-trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--wide-epochs", type=int, default=WIDE_EPOCHS)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-results", action="store_true", help="leave results/soak.md as it is (a small run)")
    arguments = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    settings = SoakSettings(**{name: value for name, value in vars(arguments).items() if name != "no_results"})
    soak, faults = run_soak(folder, settings)
    report = render_report(soak, faults, time.monotonic() - began, arguments.seed)
    print(report)
    if not arguments.no_results:
        RESULTS.write_text(report, encoding="utf-8")
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


def _runs(sweep: FaultSweep) -> bool:
    return sweep.driver is not None and sweep.driver.poll() is None


if __name__ == "__main__":
    sys.exit(main())
