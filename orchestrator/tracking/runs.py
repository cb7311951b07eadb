"""Write a sweep's journal to MLflow: a parent run for the sweep, and a child run for each trial.

The writer does not store its position. It asks MLflow which runs exist, reads the journal from the beginning, and
writes what is missing; after any failure it is thrown away and built again. Writing twice is harmless because runs are
looked up by their tags before they are created, timestamps come from the journal (an identical point adds no row), all
points of an epoch are written in one transaction, and the metric ``epoch`` says how far a run has got.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from orchestrator.home import SPOOL_DIR
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import (
    DriverEnded,
    EpochReported,
    Event,
    TestOpened,
    TrialEnded,
    TrialEvent,
    TrialStarted,
)
from orchestrator.sweep_folder.journal import follow
from orchestrator.sweep_folder.ledger import HEAD_FILE, ledger_file
from orchestrator.sweep_folder.records import ENDED, TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.dataset_use import DatasetUse, find_dataset
from orchestrator.tracking.promotions import describe_promotions
from orchestrator.tracking.run_tags import (
    DRIVER_STATUS,
    LAYOUT,
    LAYOUT_TAG,
    PARENT_TAG,
    SUITE_TAG,
    SWEEP_TAG,
    TRIAL_STATUS,
    TRIAL_TAG,
    chosen_metric,
    note_tags,
    search_params,
    sweep_tags,
    trial_params,
    trial_tags,
)
from orchestrator.tracking.sweep_metrics import NUM_ENDED, SweepMetrics
from orchestrator.tracking.sweep_notes import (
    LEADERBOARD_FILE,
    LEADERBOARD_TAGS,
    describe_sweep,
    rank,
    tabulate_leaderboard,
)
from orchestrator.tracking.trial_notes import name_run
from orchestrator.tracking.views import make_view_tags
from training.metric_names import EPOCH, TIME_CHECKPOINT_S, TIME_DATA_S, TIME_EVAL_S, TIME_TRAIN_S

_ENDED = frozenset(TRIAL_STATUS[state] for state in ENDED)
_EPOCH_PARTS = {"data": TIME_DATA_S, "train": TIME_TRAIN_S, "eval": TIME_EVAL_S, "checkpoint": TIME_CHECKPOINT_S}
_MAX_POINTS = 800  # metrics in one log_batch, which takes at most 1,000 metrics, params and tags together
_ORDER = ("chosen", "val", EPOCH, "train", "time")
_SWEEP_EVERY_S = 20.0
_SWEEP_SHARE = 0.02
"""Share of the time that goes at most into the sweep's own run while it runs; its table grows with the trials."""


class Point(NamedTuple):
    """Metrics of one run at one step, with the time from the journal."""

    step: int
    time_ms: int
    metrics: Mapping[str, float]


@dataclass
class StoredRun:
    """One run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]
    last_epoch: int = 0
    has_params: bool = False
    has_dataset: bool = False
    started_ms: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each metric."""

    @property
    def ended(self) -> bool:
        """Whether it is FINISHED, KILLED or FAILED."""
        return self.status in _ENDED

    @property
    def trial(self) -> int | None:
        """The trial's number, or None for the sweep's own run."""
        return int(self.tags[TRIAL_TAG]) if TRIAL_TAG in self.tags else None

    @property
    def is_current(self) -> bool:
        """Whether this version wrote it; runs of earlier ones lack part of what is shown."""
        return self.tags.get(LAYOUT_TAG) == LAYOUT


class RunStore(Protocol):
    """The few MLflow calls that the writer needs. Any of them may raise; the writer is then built again."""

    def find_runs(self, of: str, tag: str = SWEEP_TAG) -> list[StoredRun]:
        """Return the runs with this value of a tag, by default those of a sweep, the oldest first."""

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Write to a run; all points in one transaction, at most 800 metrics."""

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set the status, and the end time if there is one."""

    def log_dataset(self, run_id: str, dataset: DatasetUse) -> None:
        """Say which dataset a run used; saying it again changes nothing."""

    def set_view(self, tags: Mapping[str, str]) -> None:
        """Write tags of the experiment that do not exist yet."""

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write an artifact."""

    def log_folder(self, run_id: str, folder: Path) -> None:
        """Write the files of a folder as artifacts."""

    def run_path(self, run_id: str) -> str:
        """Return the address of a run's page, without the server's."""


class RunsWriter:
    """Writes one sweep's journal to MLflow.

    Args:
        plan: The sweep.
        journal: Its journal file.
        store: Where the runs go.
        pace: Called after each run that was written; it may pause to leave the processor to the sweep.
    """

    def __init__(
        self, plan: SweepPlan, journal: Path, store: RunStore, pace: Callable[[], None] = lambda: None
    ) -> None:
        self._plan, self._journal, self._store, self._pace = plan, journal, store, pace
        self._state = SweepState()
        self._offset = 0
        self._ended_ms: int | None = None
        # Two runs have the same tag only if two writers ran at once; the oldest run counts. A dict keeps the last of
        # equal keys, hence the reversed order.
        self._runs = {run.trial: run for run in reversed(store.find_runs(plan.id))}
        self._points: dict[int | None, list[Point]] = {}
        self._provenance: dict[int, Mapping[str, str]] = {}
        self._metrics = SweepMetrics(plan)
        self._sweep_due_s: float | None = None  # when the sweep's own run is written again; None: it is up to date
        self._sweep_took_s = 0.0
        self._has_files = False
        self._waiting: dict[int | None, None] = {}  # an ordered set of trials to write; None is the sweep itself

    def catch_up(self) -> bool:
        """Write the journal's new events since the last call; return whether there were any."""
        events, self._offset = follow(self._journal, self._offset)
        for event in events:
            self._take(event)
        gained = bool(self._waiting)
        if self._sweep_due_s is not None and time.monotonic() >= self._sweep_due_s:
            self._waiting[None] = None
        # The parent comes first: a child needs its id.
        if self._waiting:
            self._write_runs(self._runs.get(None) or self._create_sweep_run())
        # Pictures are written by the trials and not announced by events, so look for them each time.
        self._log_spool()
        # The sweep comes last, so that a sweep that MLflow shows as finished has all its trials.
        if None in self._waiting:
            self._write_sweep(self._runs[None])
            del self._waiting[None]
        return gained

    def _write_runs(self, sweep: StoredRun) -> None:
        for trial in [waiting for waiting in self._waiting if waiting is not None]:
            self._write_trial(trial, sweep)
            del self._waiting[trial]
            self._pace()

    def _take(self, event: Event) -> None:
        # A known epoch or end that is reported again adds nothing.
        if self._state.knows(event):
            return
        self._state.apply(event)
        # Before the first driver there is nothing to show, and a run needs a start.
        if self._state.started_ms is None:
            return
        if isinstance(event, TestOpened):
            for trial, figures in event.figures.items():
                self._add(int(trial), Point(event.epochs[trial], event.time_ms, figures))
        if isinstance(event, TrialEvent):
            self._take_of_trial(event.trial, event)
            return
        self._waiting[None] = None
        if isinstance(event, DriverEnded):
            self._ended_ms = self._state.ended_ms
            # When a driver ends, the trials it leaves open become interrupted in MLflow, too.
            self._waiting.update(dict.fromkeys(record.trial for record in self._state.open_trials()))

    def _take_of_trial(self, trial: int, event: Event) -> None:
        run = self._runs.get(trial)
        if isinstance(event, TrialEnded):
            self._count(self._state.records[trial])
        # A run that has ended in MLflow is complete: its status is written last.
        if run is not None and self._is_whole(run):
            return
        self._waiting[trial] = None
        if isinstance(event, TrialStarted):
            # A trial belongs to the driver that started it, not to the one that is running now.
            self._provenance[trial] = self._state.provenance
        elif isinstance(event, EpochReported):
            self._take_epoch(event, run)
        elif isinstance(event, TrialEnded) and not (run is not None and run.ended):
            record = self._state.records[trial]
            self._add(trial, Point(record.last_epoch, record.ended_ms or event.time_ms, wall_times(record)))

    def _take_epoch(self, event: EpochReported, run: StoredRun | None) -> None:
        # Everything up to the last epoch in MLflow was written completely and in order.
        is_new = run is None or event.epoch > run.last_epoch
        metrics = {**event.metrics, EPOCH: event.epoch} if is_new else {}
        if is_new or (run is not None and not run.is_current):
            metrics |= self._chosen(event.trial, event.epoch)
        if metrics:
            self._add(event.trial, Point(event.epoch, event.time_ms, dict(sorted(metrics.items(), key=_by_weight))))

    def _chosen(self, trial: int, epoch: int) -> dict[str, float]:
        """Return the trial's score if this epoch is the chosen one so far; MLflow takes the last that it gets."""
        record, protocol = self._state.records[trial], self._plan.protocol
        if record.chosen_epoch(protocol) != epoch:
            return {}
        value = record.metrics[epoch].get(protocol.metric)
        return {} if value is None or not math.isfinite(value) else {chosen_metric(protocol): value}

    def _count(self, record: TrialRecord) -> None:
        metrics, own = self._metrics.add(record), self._runs.get(None)
        if own is None or self._metrics.num_ended > own.metrics.get(NUM_ENDED, 0):
            assert record.ended_ms is not None
            self._points.setdefault(None, []).append(Point(self._metrics.num_ended, record.ended_ms, metrics))
        if self._sweep_due_s is None:
            self._sweep_due_s = time.monotonic() + max(_SWEEP_EVERY_S, self._sweep_took_s / _SWEEP_SHARE)

    def _add(self, trial: int, point: Point) -> None:
        self._points.setdefault(trial, []).append(point)
        self._waiting[trial] = None

    def _create_sweep_run(self) -> StoredRun:
        tags = sweep_tags(self._plan, self._state) | LEADERBOARD_TAGS
        # Nothing is written before the first driver has started.
        assert self._state.started_ms is not None
        run = StoredRun(self._store.create_run(self._plan.id, self._state.started_ms, tags), "RUNNING", tags)
        self._runs[None] = run
        return run

    def _write_sweep(self, run: StoredRun) -> None:
        began, self._sweep_due_s = time.monotonic(), None
        rows = rank(self._plan, self._state)
        note = describe_sweep(self._plan, self._state, rows, self._link, describe_promotions(self._plan, self._state))
        tags = sweep_tags(self._plan, self._state) | LEADERBOARD_TAGS | note_tags(note, run.tags)
        points = self._points.pop(None, [])
        self._log(run, points, {} if run.has_params else search_params(self._plan), tags)
        self._log_dataset(run, self._state.provenance)
        if not self._has_files:
            self._store.set_view(make_view_tags(self._plan))
            self._store.log_text(run.run_id, self._plan.space_text, "space.yaml")
            self._store.log_text(run.run_id, self._plan.to_json(), "plan.json")
            self._has_files = True
        self._store.log_text(run.run_id, tabulate_leaderboard(self._plan, rows), LEADERBOARD_FILE)
        if self._state.test is not None and self._state.test.opening is not None:
            self._log_ledger(run)
        self._set_status(run, DRIVER_STATUS[self._state.driver_state or "RUNNING"], self._ended_ms)
        self._sweep_took_s = time.monotonic() - began

    def _link(self, trial: int) -> str | None:
        run = self._runs.get(trial)
        return None if run is None else self._store.run_path(run.run_id)

    def _log_dataset(self, run: StoredRun, provenance: Mapping[str, str]) -> None:
        dataset = find_dataset(self._plan, provenance)
        if dataset is not None and not run.has_dataset:
            self._store.log_dataset(run.run_id, dataset)
            run.has_dataset = True

    def _log_ledger(self, run: StoredRun) -> None:
        # The head first: it may be a line behind the ledger, but not ahead of it.
        for path in (ledger_file().with_name(HEAD_FILE), ledger_file()):
            # As it is: a copy of a damaged ledger shows what was changed, and when.
            if path.is_file():
                self._store.log_text(run.run_id, path.read_text(encoding="utf-8", errors="replace"), path.name)

    def _write_trial(self, trial: int, sweep: StoredRun) -> None:
        record = self._state.records[trial]
        run = self._runs.get(trial)
        tags = {PARENT_TAG: sweep.run_id, **trial_tags(self._plan, record, self._provenance.get(trial, {}))}
        if run is None:
            name = name_run(self._plan, record)
            run = StoredRun(self._store.create_run(name, record.started_ms, tags), "RUNNING", tags)
            self._runs[trial] = run
        points = self._points.pop(trial, [])
        # Before the tags, one of which says that the run is complete.
        self._log_dataset(run, self._provenance.get(trial, {}))
        # Only test figures come this late; the tags of a finished run do not change.
        if self._is_whole(run):
            tags = run.tags
        self._log(run, points, {} if run.has_params else trial_params(self._plan, record), tags)
        if not run.ended:
            self._set_status(run, self._trial_status(record), record.ended_ms)

    def _is_whole(self, run: StoredRun) -> bool:
        """Whether nothing but test figures can be missing from a trial's run."""
        return run.ended and run.is_current and run.tags.get(SUITE_TAG) == self._plan.suite

    def _trial_status(self, record: TrialRecord) -> str:
        # Without a driver, no open trial is running.
        if record.ended or self._state.driver_state == "RUNNING":
            return TRIAL_STATUS[record.state]
        return TRIAL_STATUS[TrialState.INTERRUPTED]

    def _log(self, run: StoredRun, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        # Unchanged tags are not sent again, because each is a row to write.
        tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        for batch in make_batches(points) or ([[]] if params or tags else []):
            self._store.log(run.run_id, batch, params, tags)
            run.has_params = run.has_params or bool(params)
            run.tags.update(tags)
            # Params and tags go only with the first batch.
            params, tags = {}, {}

    def _set_status(self, run: StoredRun, status: str, end_ms: int | None) -> None:
        if status != run.status:
            self._store.set_status(run.run_id, status, end_ms if status in _ENDED else None)
            run.status = status

    def _log_spool(self) -> None:
        for folder in _spooled(self._journal.parent / SPOOL_DIR):
            run = self._runs.get(int(folder.name[1:]))
            # Deleted only after MLflow has the files, so that a failure loses nothing.
            if run is not None:
                self._store.log_folder(run.run_id, folder)
                shutil.rmtree(folder)


def wall_times(record: TrialRecord) -> dict[str, float]:
    """Return where a trial's wall time went, in seconds.

    ``queue`` (from the hand-out until the actor starts), ``start`` (from there to the first epoch), ``data``,
    ``train``, ``eval`` and ``checkpoint`` as the epochs report them, and ``log``: the rest, which is spent on
    reporting and on waiting for the driver's answer.
    """
    parts = {"queue": record.queue_s, "start": record.start_s}
    parts |= {
        part: sum(metrics.get(name, 0.0) for metrics in record.metrics.values()) for part, name in _EPOCH_PARTS.items()
    }
    # Times are measured by different clocks, so the rest may come out slightly negative.
    parts["log"] = max(0.0, record.run_s - sum(parts.values()))
    return {f"wall/{part}_s": seconds for part, seconds in parts.items()} | {"wall/total_s": record.run_s}


def _by_weight(metric: tuple[str, float]) -> int:
    """Order metrics by what a reader looks for first; MLflow lists them as they were first written."""
    kind = metric[0].partition("/")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def make_batches(points: Sequence[Point]) -> list[list[Point]]:
    """Divide points into pieces that MLflow takes at once."""
    batches: list[list[Point]] = []
    size = 0
    for point in points:
        size += len(point.metrics)
        # An epoch is never split: otherwise a reader would see only some of its metrics.
        if not batches or size > _MAX_POINTS:
            batches.append([])
            size = len(point.metrics)
        batches[-1].append(point)
    return batches


def _spooled(spool: Path) -> list[Path]:
    # A folder gets its trial's name (t0007) only once it is complete.
    return [folder for folder in sorted(spool.glob("t[0-9]*")) if folder.is_dir() and folder.name[1:].isdigit()]
