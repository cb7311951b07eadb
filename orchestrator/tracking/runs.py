"""Write a sweep's journal to MLflow: a parent run for the sweep, and a child run for each trial.

The writer does not store its position. It asks MLflow which runs exist, reads the journal from the beginning, and
writes what is missing; after any failure it is thrown away and built again. Writing twice is harmless because runs are
looked up by their tags before they are created, timestamps come from the journal (an identical point adds no row), all
points of an epoch are written in one transaction, and the metric ``epoch`` says how far a run has got.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from orchestrator.home import SPOOL_DIR, trial_name
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
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
from orchestrator.sweep_folder.records import ENDED, TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState
from training.metric_names import EPOCH, TIME_CHECKPOINT_S, TIME_DATA_S, TIME_EVAL_S, TIME_TRAIN_S
from training.selection import epoch_metric

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "orchestrator.sweep"
TRIAL_TAG = "orchestrator.trial"
NUM_TRIALS_TAG = "orchestrator.num_trials"
"""Only a sweep's own run has this tag."""
CHOSEN_TAG = "chosen."
"""Prefix of the tags with a trial's chosen epoch and its metrics there; MLflow itself lists only the last epoch's."""
TRIAL_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "FAILED",
    # Neither running nor ended: `resume` continues it.
    TrialState.INTERRUPTED: "SCHEDULED",
}
DRIVER_STATUS = {"RUNNING": "RUNNING", "INTERRUPTED": "SCHEDULED", "FINISHED": "FINISHED", "FAILED": "FAILED"}

_ENDED = frozenset(TRIAL_STATUS[state] for state in ENDED)
_EPOCH_PARTS = {"data": TIME_DATA_S, "train": TIME_TRAIN_S, "eval": TIME_EVAL_S, "checkpoint": TIME_CHECKPOINT_S}
_MAX_POINTS = 800  # metrics in one log_batch, which takes at most 1,000 metrics, params and tags together
_MAX_TEXT = 500


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


class RunStore(Protocol):
    """The few MLflow calls that the writer needs. Any of them may raise; the writer is then built again."""

    def find_runs(self, sweep_id: str) -> list[StoredRun]:
        """Return the runs that carry the sweep's tag, the oldest first."""

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Write to a run; all points in one transaction, at most 800 metrics."""

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set the status, and the end time if there is one."""

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write an artifact."""

    def log_folder(self, run_id: str, folder: Path) -> None:
        """Write the files of a folder as artifacts."""


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
        self._points: dict[int, list[Point]] = {}
        self._provenance: dict[int, Mapping[str, str]] = {}
        self._waiting: dict[int | None, None] = {}  # an ordered set of trials to write; None is the sweep itself

    def catch_up(self) -> bool:
        """Write the journal's new events since the last call; return whether there were any."""
        events, self._offset = follow(self._journal, self._offset)
        for event in events:
            self._take(event)
        gained = bool(self._waiting)
        # The parent comes first: a child needs its id.
        if gained:
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
        # A run that has ended in MLflow is complete: its status is written last.
        if run is not None and run.ended:
            return
        self._waiting[trial] = None
        if isinstance(event, TrialStarted):
            # A trial belongs to the driver that started it, not to the one that is running now.
            self._provenance[trial] = self._state.provenance
        # Everything up to the last epoch in MLflow was written completely and in order.
        elif isinstance(event, EpochReported) and (run is None or event.epoch > run.last_epoch):
            self._add(trial, Point(event.epoch, event.time_ms, {**event.metrics, EPOCH: event.epoch}))
        elif isinstance(event, TrialEnded):
            record = self._state.records[trial]
            self._add(trial, Point(record.last_epoch, record.ended_ms or event.time_ms, wall_times(record)))

    def _add(self, trial: int, point: Point) -> None:
        self._points.setdefault(trial, []).append(point)
        self._waiting[trial] = None

    def _create_sweep_run(self) -> StoredRun:
        tags = sweep_tags(self._plan, self._state)
        # Nothing is written before the first driver has started.
        assert self._state.started_ms is not None
        run = StoredRun(self._store.create_run(self._plan.id, self._state.started_ms, tags), "RUNNING", tags)
        self._runs[None] = run
        return run

    def _write_sweep(self, run: StoredRun) -> None:
        self._log(run, [], {} if run.has_params else search_params(self._plan), sweep_tags(self._plan, self._state))
        self._store.log_text(run.run_id, self._plan.space_text, "space.yaml")
        self._store.log_text(run.run_id, self._plan.to_json(), "plan.json")
        if self._state.test is not None and self._state.test.opening is not None:
            self._log_ledger(run)
        self._set_status(run, DRIVER_STATUS[self._state.driver_state or "RUNNING"], self._ended_ms)

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
            run = StoredRun(self._store.create_run(trial_name(trial), record.started_ms, tags), "RUNNING", tags)
            self._runs[trial] = run
        points = self._points.pop(trial, [])
        # Only test figures come this late; the tags of a finished run do not change.
        if run.ended:
            tags = run.tags
        self._log(run, points, {} if run.has_params else trial_params(self._plan, record), tags)
        if not run.ended:
            self._set_status(run, self._trial_status(record), record.ended_ms)

    def _trial_status(self, record: TrialRecord) -> str:
        # Without a driver, no open trial is running.
        if record.ended or self._state.driver_state == "RUNNING":
            return TRIAL_STATUS[record.state]
        return TRIAL_STATUS[TrialState.INTERRUPTED]

    def _log(self, run: StoredRun, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        # Unchanged tags are not sent again, because each is a row to write.
        tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        for batch in _batches(points) or ([[]] if params or tags else []):
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


def trial_params(plan: SweepPlan, record: TrialRecord) -> dict[str, str]:
    """Return a trial's complete configuration, flattened."""
    return {key: str(value) for key, value in trial_config(plan, record.params).flatten().items()}


def search_params(plan: SweepPlan) -> dict[str, str]:
    """Return how a sweep searches."""
    names = (
        "sampler",
        "search_seed",
        "startup_trials",
        "scheduler",
        "grace_epochs",
        "reduction_factor",
        "concurrency",
        "epochs",
    )
    return {f"search.{name}": str(getattr(plan, name)) for name in names}


def trial_tags(plan: SweepPlan, record: TrialRecord, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a trial's run, except the link to its sweep's run."""
    # The seed may be searched or fixed per trial, so take the trial's and not the plan's.
    training_seed = trial_config(plan, record.params).loop.seed
    tags = {
        **_common_tags(plan, {**provenance, "training_seed": str(training_seed)}),
        TRIAL_TAG: str(record.trial),
        "orchestrator.origin": record.origin,
        "orchestrator.attempts": str(record.attempts),
        "orchestrator.params": json.dumps(dict(record.params)),
        "orchestrator.run_s": f"{record.run_s:.3f}",
        "orchestrator.reported_ms": str(record.spans[-1][1] if record.spans else record.started_ms),
        **_chosen_tags(plan, record),
    }
    if record.cause is not None:
        tags["orchestrator.cause"] = str(record.cause)
        tags["orchestrator.message"] = (record.message or "")[:_MAX_TEXT]
    return tags


def sweep_tags(plan: SweepPlan, state: SweepState) -> dict[str, str]:
    """Return the tags of a sweep's own run: what it is, its progress, its best trial, and a promotion's decision.

    ``run_s`` is the time that drivers took, without the driver that is still running.
    """
    at_work_since = state.driver_started_ms if state.driver_state == "RUNNING" else None
    tags = _common_tags(plan, state.provenance) | {
        NUM_TRIALS_TAG: str(state.num_trials),
        "orchestrator.driver_started_ms": str(state.driver_started_ms),
        "orchestrator.run_s": f"{state.driven_s(at_work_since):.3f}",
    }
    if plan.parent:
        tags["orchestrator.from"] = plan.parent
    winner = best(state.records.values(), plan.protocol)
    if winner is not None:
        tags["orchestrator.best_trial"] = str(winner.trial)
        tags["orchestrator.best_value"] = f"{winner.value(plan.protocol):.3f}"
    # MLflow searches runs only by their tags, so the decision is stored there.
    if state.promotion is not None:
        tags["orchestrator.verdict"] = state.promotion.verdict
        tags["orchestrator.reason"] = state.promotion.reason[:_MAX_TEXT]
        tags["orchestrator.marks"] = "; ".join(state.promotion.marks)[:_MAX_TEXT]
        tags["orchestrator.model"] = state.promotion.model
    if state.test is not None and state.test.opening is not None:
        tags["orchestrator.test_opening"] = str(state.test.opening)
        tags["orchestrator.test_opening_hash"] = str(state.test.line_hash)
    return tags


def _chosen_tags(plan: SweepPlan, record: TrialRecord) -> dict[str, str]:
    epoch = record.chosen_epoch(plan.protocol)
    if epoch is None:
        return {}
    names = (plan.protocol.metric, epoch_metric(plan.protocol.select_epoch_by))
    chosen = {name: value for name in names if (value := record.metrics[epoch].get(name)) is not None}
    return {f"{CHOSEN_TAG}{name}": str(value) for name, value in {EPOCH: epoch, **chosen}.items()}


def _common_tags(plan: SweepPlan, provenance: Mapping[str, str]) -> dict[str, str]:
    return {
        SWEEP_TAG: plan.id,
        "orchestrator.kind": plan.kind,
        "orchestrator.method": plan.method,
        "orchestrator.protocol": str(plan.protocol),
        **{f"provenance.{key}": value for key, value in provenance.items()},
    }


def _batches(points: Sequence[Point]) -> list[list[Point]]:
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
