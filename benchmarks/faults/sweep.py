"""Runs a sweep of trivial runs whose driver can be killed, and checks what must be true of it at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.faults.cluster import FaultCluster
from orchestrator.home import sweep_dir, trial_name
from orchestrator.sweep_folder.events import EpochReported, Event, TrialStarted
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.tracking.connection import make_client
from orchestrator.tracking.run_tags import SWEEP_TAG, TRIAL_TAG
from tests.kit.trivial_run import RESUMED_FROM
from training.metric_names import VAL_MAP

ROOT = Path(__file__).parents[2]
# Only a failure takes this long. On a machine with a load of 15, a driver and its workers need minutes to start.
PATIENCE_S = 600.0
_STEP_S = 0.1


@dataclass(frozen=True)
class Start:
    """Where an attempt started, if it reported anything.

    Attributes:
        trial, attempt: Their numbers.
        journalled: The trial's last epoch in the journal before the attempt.
        known: Its last epoch in any journal: a lost home may have had more epochs than its backup.
        epoch: The epoch of the checkpoint that the attempt loaded; 0 if it started from the beginning.
    """

    trial: int
    attempt: int
    journalled: int
    known: int
    epoch: int


@dataclass(frozen=True)
class Loss:
    """A home that was lost.

    Attributes:
        num_events: How many events of its journal the backup had.
        known: The last epoch in its journal, by trial.
    """

    num_events: int
    known: Mapping[int, int]


@dataclass
class FaultSweep:
    """One sweep.

    Attributes:
        cluster: Where it runs.
        folder: For the files that control its runs, and for the log of its driver.
        id: The sweep's.
        trials, epochs: How many trials, of how many epochs each.
        workers: Workers of each trial, with ``cpus`` each.
        epoch_s: How long an epoch takes.
        tracking: Whether it logs to MLflow.
        runs: Settings of its :class:`~tests.kit.trivial_run.TrivialRuns`.
        changes: Changes to its plan.
        words: Further arguments of its program.
        known: All (trial, epoch) that its journal had at any fault.
        cut: How many attempts a trial had had when its newest checkpoint was cut short, by trial.
        loss: The loss of its first home.
        driver: Its latest driver.
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
    cut: dict[int, int] = field(default_factory=dict)
    loss: Loss | None = None
    driver: subprocess.Popen[bytes] | None = None

    @property
    def hurry_file(self) -> Path:
        """The file that makes its runs finish at once."""
        return self.folder / f"{self.id}.hurry"

    @property
    def full_file(self) -> Path:
        """The file that makes its checkpoints fail for lack of space, as long as it exists."""
        return self.folder / f"{self.id}.full"

    @property
    def log(self) -> str:
        """What its drivers have printed."""
        return (self.folder / f"{self.id}.log").read_text()

    def start(self) -> None:
        """Start a driver; it resumes the sweep if there is one."""
        runs = {
            "hurry_file": str(self.hurry_file),
            "full_file": str(self.full_file),
            "level": True,
            "tell_start": True,
            **self.runs,
        }
        resources = {"workers": self.workers, "cpus_per_worker": self.cpus}
        changes = {"scheduler": "none", "concurrency": self.trials, "sampler": "random", **self.changes}
        command = [sys.executable, "-m", "tests.kit.trivial_sweep", self.id, "--address", self.cluster.address]
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
        """Kill the driver if it is still running."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def wait_for_driver(self) -> int:
        """Wait until the driver ends, and return its exit code."""
        assert self.driver is not None
        return self.driver.wait(PATIENCE_S)

    def finish(self) -> int:
        """Let the runs finish at once, wait for the driver, and return its exit code."""
        self.hurry_file.touch()
        return self.wait_for_driver()

    def events(self) -> list[Event]:
        """Return the events in the journal."""
        return follow(sweep_dir(self.id) / JOURNAL_FILE)[0]

    def reports(self, trial: int | None = None) -> list[EpochReported]:
        """Return the reported epochs of one trial, or of all."""
        return [event for event in self.events() if isinstance(event, EpochReported) and trial in (None, event.trial)]

    def remember(self) -> None:
        """Note the epochs that must still be there at the end."""
        self.known |= {(event.trial, event.epoch) for event in self.reports()}

    def records(self) -> dict[int, TrialRecord]:
        """Return the records of all trials."""
        return replay(sweep_dir(self.id) / JOURNAL_FILE).records

    def cut_checkpoint(self, trial: int) -> None:
        """Cut the newest checkpoint of a trial short."""
        path = sweep_dir(self.id) / "checkpoints" / trial_name(trial) / "last.json"
        path.write_bytes(path.read_bytes()[:-10])
        self.cut[trial] = self.attempts()[trial]

    def note_loss(self) -> None:
        """Note that the home with all known epochs was lost, and that the current one has what the backup had."""
        known: dict[int, int] = {}
        for trial, epoch in self.known:
            known[trial] = max(epoch, known.get(trial, 0))
        self.loss = Loss(len(self.events()), known)

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something is true; raise an error if the driver fails first, or the time is up."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if self.driver is not None and self.driver.poll() not in (None, 0):
                raise AssertionError(
                    f"{self.id}: the driver ended with {self.driver.returncode}, before {what}: {self.log[-3000:]}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.id}: no {what} in {PATIENCE_S:.0f} s: {self.events()[-3:]}, {self.cluster.groups()}"
                )
            time.sleep(_STEP_S)

    def wait_for_progress(self) -> None:
        """Wait for one more epoch of every trial."""
        aims = {trial: len(self.reports(trial)) + 1 for trial in range(self.trials)}
        self.wait_for(
            lambda: all(len(self.reports(trial)) >= aim for trial, aim in aims.items()), "further epoch of every trial"
        )

    def wait_for_next_attempts(self, before: Mapping[int, int]) -> None:
        """Wait until some trial has been started again, and every trial that was has reported since."""
        self.wait_for(lambda: self.reported_since(before), "epoch of a further attempt")

    def attempts(self) -> dict[int, int]:
        """Return how often each trial was started."""
        return {trial: record.attempts for trial, record in self.records().items()}

    def reported_since(self, before: Mapping[int, int]) -> bool:
        """Return whether some trial has been started again, and every trial that was has reported since."""
        waiting, again = set[int](), set[int]()
        for event in self.events():
            if isinstance(event, TrialStarted) and event.attempt > before.get(event.trial, 0):
                waiting.add(event.trial)
                again.add(event.trial)
            elif isinstance(event, EpochReported):
                waiting.discard(event.trial)
        return bool(again) and not waiting

    def starts(self) -> list[Start]:
        """Return where every attempt started."""
        return find_starts(self.events(), self.loss)

    def count_lost(self) -> int:
        """Return how many epochs the journal lacks although it had them at a fault, or has more than once."""
        counts = Counter((event.trial, event.epoch) for event in self.reports())
        return sum(counts[key] != 1 for key in (self.known | set(counts)) - find_uncopied(self.starts()))

    def count_run_again(self) -> int:
        """Return how many known epochs were trained again because no checkpoint had saved them."""
        return sum(max(0, start.known - start.epoch) for start in self.starts())

    def count_uncopied(self) -> int:
        """Return how many epochs are missing because the backup did not have them when the home was lost."""
        return len(find_uncopied(self.starts()))

    def check(self, *, failed: int = 0) -> list[str]:
        """Return what is wrong with the sweep, once it is over."""
        records, starts = self.records(), self.starts()
        faults, uncopied = [f"{self.id}: {fault}" for fault in check_starts(starts, self.cut)], find_uncopied(starts)
        if lost := self.count_lost():
            faults.append(f"{self.id}: {lost} epochs lost or doubled")
        if sorted(records) != list(range(self.trials)):
            faults.append(f"{self.id}: trials are {sorted(records)}")
        if sum(record.state is TrialState.FAILED for record in records.values()) != failed:
            faults.append(f"{self.id}: {[(record.trial, record.state, record.message) for record in records.values()]}")
        for record in records.values():
            expected = [epoch for epoch in range(1, record.last_epoch + 1) if (record.trial, epoch) not in uncopied]
            if not record.ended or sorted(record.metrics) != expected:
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
        expected = Counter((event.trial, event.epoch, event.metrics[VAL_MAP]) for event in self.reports())
        if logged == expected:
            return []
        return [f"{self.id}: MLflow lacks {list(expected - logged)[:5]} and has too much {list(logged - expected)[:5]}"]


def find_starts(events: Iterable[Event], loss: Loss | None = None) -> list[Start]:
    """Return where every attempt started, in the order of their first reports."""
    journalled, known = Counter[int](), Counter[int]()
    at_work: dict[int, Start] = {}
    starts: dict[tuple[int, int], Start] = {}
    for number, event in enumerate(events):
        if loss is not None and number == loss.num_events:
            known |= Counter(loss.known)
        if isinstance(event, TrialStarted):
            trial = event.trial
            at_work[trial] = Start(trial, event.attempt, journalled[trial], known[trial], -1)
        elif isinstance(event, EpochReported):
            trial, epoch = event.trial, event.epoch
            start = replace(at_work[trial], epoch=int(event.metrics[RESUMED_FROM]))
            # All epochs of an attempt should name the same one; if they do not, take the earlier, which is worse.
            starts[trial, start.attempt] = min(
                starts.get((trial, start.attempt), start), start, key=lambda found: found.epoch
            )
            journalled[trial] = max(epoch, journalled[trial])
            known[trial] = max(epoch, known[trial])
    return list(starts.values())


def find_uncopied(starts: Iterable[Start]) -> set[tuple[int, int]]:
    """Return the (trial, epoch) that must be missing: neither in the backup nor trained again.

    They lie between the last epoch in the backup and that of the checkpoint, which is the first to be reported again.
    """
    return {(start.trial, epoch) for start in starts for epoch in range(start.journalled + 1, start.epoch)}


def check_starts(starts: Iterable[Start], cut: Mapping[int, int]) -> list[str]:
    """Return the attempts that did not start where their trial had stopped.

    That is at the last known epoch, or at the next one if the trial was killed between a checkpoint and its report.
    After its newest checkpoint was cut short, a trial may once start an epoch earlier.

    Args:
        starts: All starts, in the order of the journal.
        cut: How many attempts a trial had had when its checkpoint was cut short, by trial.
    """
    faults, unused = [], dict(cut)
    for start in starts:
        least = start.known
        if start.attempt > unused.get(start.trial, start.attempt):
            least -= 1
            del unused[start.trial]
        if not least <= start.epoch <= start.known + 1:
            faults.append(
                f"attempt {start.attempt} of trial {start.trial} started from epoch {start.epoch}, but "
                f"{start.known} was known"
            )
    return faults
