"""A sweep of trivial runs on a cluster, whose driver is a process that can be killed, and what must be true of it in the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fault_cluster import FaultCluster
from orchestrator.home import sweep_dir, trial_name
from orchestrator.journal import JOURNAL_FILE, Event, follow, replay
from orchestrator.mirror import SWEEP_TAG, TRIAL_TAG
from orchestrator.records import TrialRecord, TrialState
from orchestrator.tracking import make_client
from training.metrics import VAL_MAP

ROOT = Path(__file__).parents[1]
PATIENCE_S = 180.0
_STEP_S = 0.1


@dataclass
class FaultSweep:
    """One sweep.

    Attributes:
        folder: For signs to its runs and the log of its driver.
        workers: Of each trial, of ``cpus`` each.
        runs: Settings of its :class:`~benchmarks.trivial_run.TrivialRuns`.
        changes: Of its plan.
        words: Further ones of its program.
        known: All epochs that its journal had at any fault.
    """

    cluster: FaultCluster
    folder: Path
    id: str
    trials: int
    epochs: int
    workers: int = 1
    cpus: int = 1
    epoch_s: float = 0.5
    tracking: bool = False
    runs: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    known: set[tuple[int, int]] = field(default_factory=set)
    driver: subprocess.Popen[bytes] | None = None

    @property
    def hurry_file(self) -> Path:
        """Its runs take no time any more once this file is there."""
        return self.folder / f"{self.id}.hurry"

    @property
    def full_file(self) -> Path:
        """Its checkpoints find no space while this file is there."""
        return self.folder / f"{self.id}.full"

    @property
    def log(self) -> str:
        """What its drivers wrote on the terminal."""
        return (self.folder / f"{self.id}.log").read_text()

    def start(self) -> None:
        """Start a driver, or the next one."""
        runs = {"hurry_file": str(self.hurry_file), "full_file": str(self.full_file), "level": True, **self.runs}
        resources = {"workers": self.workers, "cpus_per_worker": self.cpus}
        changes = {"scheduler": "none", "concurrency": self.trials, "sampler": "random", **self.changes}
        command = [sys.executable, "-m", "benchmarks.trivial_sweep", self.id, "--address", self.cluster.address]
        command += ["--trials", str(self.trials), "--epochs", str(self.epochs), "--epoch-s", str(self.epoch_s)]
        command += ["--runs", json.dumps(runs), "--resources", json.dumps(resources), "--changes", json.dumps(changes)]
        command += [*self.words, *([] if self.tracking else ["--no-tracking"])]
        with (self.folder / f"{self.id}.log").open("ab") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def kill_driver(self) -> None:
        """Kill the driver with -9."""
        assert self.driver is not None
        self.remember()
        self.driver.kill()
        self.driver.wait()

    def end(self) -> None:
        """Kill the driver if it lives."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def wait_for_driver(self) -> int:
        """Wait for the driver's end and return its exit code."""
        assert self.driver is not None
        return self.driver.wait(PATIENCE_S)

    def finish(self) -> int:
        """Let the runs hurry, and wait for the end."""
        self.hurry_file.touch()
        return self.wait_for_driver()

    def events(self) -> list[Event]:
        """Return what is in the journal."""
        return follow(sweep_dir(self.id) / JOURNAL_FILE)[0]

    def reports(self, trial: int | None = None) -> list[Event]:
        """Return the epochs of one trial or of all."""
        return [event for event in self.events() if event["event"] == "epoch_reported" and trial in (None, event["trial"])]

    def remember(self) -> None:
        """Note what must still be there in the end."""
        self.known |= {(event["trial"], event["epoch"]) for event in self.reports()}

    def records(self) -> dict[int, TrialRecord]:
        """Return the journal's records."""
        return replay(sweep_dir(self.id) / JOURNAL_FILE).records

    def checkpoint(self, trial: int) -> Path:
        """Return the newest checkpoint of a trial."""
        return sweep_dir(self.id) / "checkpoints" / trial_name(trial) / "last.json"

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds; a driver that ends meanwhile, or patience that does, is an error."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if self.driver is not None and self.driver.poll() not in (None, 0):
                raise AssertionError(f"{self.id}: the driver ended with {self.driver.returncode}, before {what}: {self.log[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.id}: no {what} in {PATIENCE_S:.0f} s: {self.events()[-3:]}, {self.cluster.groups()}")
            time.sleep(_STEP_S)

    def wait_for_progress(self) -> None:
        """Wait for one more epoch of every trial."""
        aims = {trial: len(self.reports(trial)) + 1 for trial in range(self.trials)}
        self.wait_for(lambda: all(len(self.reports(trial)) >= aim for trial, aim in aims.items()), "further epoch of every trial")

    def wait_for_next_attempts(self, before: Mapping[int, int]) -> None:
        """Wait until a trial was handed out once more than before, and every one that was has reported since."""
        self.wait_for(lambda: self.reported_since(before), "epoch of a further attempt")

    def attempts(self) -> dict[int, int]:
        """Return how often each trial was handed out."""
        return {trial: record.attempts for trial, record in self.records().items()}

    def reported_since(self, before: Mapping[int, int]) -> bool:
        """Return whether a trial was handed out once more than before, and every one that was has reported since."""
        waiting, again = set[int](), set[int]()
        for event in self.events():
            if event["event"] == "trial_started" and event["attempt"] > before.get(event["trial"], 0):
                waiting.add(event["trial"])
                again.add(event["trial"])
            elif event["event"] == "epoch_reported":
                waiting.discard(event["trial"])
        return bool(again) and not waiting

    def count_lost(self) -> int:
        """Return how many epochs that were reported at a fault are not in the journal, or in it more than once."""
        counts = Counter((event["trial"], event["epoch"]) for event in self.reports())
        return sum(counts[key] != 1 for key in self.known | set(counts))

    def check(self, *, failed: int = 0) -> list[str]:
        """Return what is wrong with a sweep that is over."""
        faults, records = [], self.records()
        if lost := self.count_lost():
            faults.append(f"{self.id}: {lost} epochs lost or doubled")
        if sorted(records) != list(range(self.trials)):
            faults.append(f"{self.id}: trials are {sorted(records)}")
        if sum(record.state is TrialState.FAILED for record in records.values()) != failed:
            faults.append(f"{self.id}: {[(record.trial, record.state, record.message) for record in records.values()]}")
        for record in records.values():
            if not record.ended or sorted(record.metrics) != list(range(1, record.last_epoch + 1)):
                faults.append(f"{self.id}: trial {record.trial} is {record.state} with epochs {sorted(record.metrics)}")
        return faults

    def count_logged(self) -> Counter[tuple[int, int, float]]:
        """Return how often MLflow has each (trial, epoch, score)."""
        client = make_client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`{SWEEP_TAG}` = '{self.id}'", max_results=1000)
        return Counter(
            (int(run.data.tags[TRIAL_TAG]), point.step, point.value)
            for run in runs
            if TRIAL_TAG in run.data.tags
            for point in client.get_metric_history(run.info.run_id, VAL_MAP)
        )

    def check_logged(self) -> list[str]:
        """Return where MLflow differs from the journal: every epoch once, with the same value."""
        logged = self.count_logged()
        expected = Counter((event["trial"], event["epoch"], event["metrics"][VAL_MAP]) for event in self.reports())
        if logged == expected:
            return []
        return [f"{self.id}: MLflow lacks {list(expected - logged)[:5]} and has too much {list(logged - expected)[:5]}"]
