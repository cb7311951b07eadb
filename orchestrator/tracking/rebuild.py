"""Rebuild a lost journal from the runs that MLflow has of its sweep.

Every epoch comes back with all its metrics, every trial with its settings and its end. What MLflow does not have is
lost: the single attempts of a trial, which become one, and what was not written to it yet.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import PLAN_FILE, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import redact
from orchestrator.sweep_folder.chain import seal_after
from orchestrator.sweep_folder.events import (
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    SweepPlanned,
    TrialEnded,
    TrialStarted,
    to_line,
)
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, check_journal, read_whole, replace_journal
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.plan_check import describe_changes
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import answering, tracking_uri
from orchestrator.tracking.recall import RecalledSweep, recall_sweep
from orchestrator.tracking.runs import StoredRun
from orchestrator.tracking.store import find_runs_of_trials

if TYPE_CHECKING:
    from mlflow import MlflowClient

_COMPUTED = ("wall/", "chosen/")
"""Metrics that are computed from a trial's events."""


def rebuild_journal(sweep_id: str) -> int:
    """Write what the journal of a sweep has lost from MLflow; a damaged journal is kept under another name.

    Returns:
        The number of epochs that were added.

    Raises:
        UserError: The journal is whole, or a driver is running.
        OrchestratorError: MLflow does not answer, or does not have the sweep; or the sweep is a promotion.
    """
    plan, path = load_plan(sweep_id), sweep_dir(sweep_id) / JOURNAL_FILE
    if plan.kind == "promote":
        raise OrchestratorError(
            f"{sweep_id} is a promotion, and MLflow lacks part of its decision. Restore {path} from a copy, or "
            f"move {path.parent} away and promote again: `orchestrator promote {plan.parent}`"
        )
    found = recall_sweep(sweep_id)
    if found is None or not found.state.records:
        raise OrchestratorError(
            f"MLflow at {redact(tracking_uri())} has no trials of {sweep_id} either. Restore {path} from a copy, or "
            f"move {path.parent} away and start the sweep again."
        )
    _require_same(plan, found)
    # Held throughout, so that no driver appends to the journal that is being replaced.
    lease = Lease(path.parent)
    try:
        events, whole = read_whole(path)
        added = list(_find_lost(events, _make_events(plan, found, _read_epochs(plan))))
        # The last line says only that nothing runs now.
        if len(added) == 1 and check_journal(path) is None:
            raise UserError(f"{sweep_id} has its whole journal: `orchestrator resume {sweep_id}`")
        lines = seal_after(whole.splitlines(), (to_line(event).rstrip(b"\n") for event in added))
        replace_journal(path, whole + b"".join(line + b"\n" for line in lines))
    finally:
        lease.release()
    return sum(isinstance(event, EpochReported) for event in added)


def _require_same(plan: SweepPlan, found: RecalledSweep) -> None:
    changed = list(describe_changes(found.plan, plan))
    if changed:
        raise OrchestratorError(
            f"{sweep_dir(plan.id) / PLAN_FILE} differs from the plan in MLflow: {', '.join(changed)}. Undo that first."
        )
    # Trials are numbered in the order in which they were handed out.
    if sorted(found.state.records) != list(range(len(found.state.records))):
        raise OrchestratorError(
            f"MLflow has only the trials {', '.join(map(str, found.state.records))} of {plan.id}, so the journal "
            f"cannot be rebuilt from it."
        )


def _make_events(plan: SweepPlan, found: RecalledSweep, epochs: Mapping[int, list[EpochReported]]) -> list[Event]:
    """Return the events of a journal with these records and epochs, in the order of their times."""
    state = found.state
    timed = [event for record in state.records.values() for event in _of_trial(record, epochs.get(record.trial, []))]
    # The sort is stable: at equal times, a trial's start stays before its epochs, and its end after them.
    timed.sort(key=lambda event: event.time_ms)
    started_ms = min(state.started_ms or timed[0].time_ms, timed[0].time_ms)
    is_finished = all(record.ended for record in state.records.values()) and len(state.records) >= state.num_trials
    return [
        SweepPlanned(json.loads(plan.to_json()), time_ms=started_ms),
        # Neither host nor process of the driver is in MLflow, and nothing relies on them.
        DriverStarted(plan.id, "", 0, state.num_trials, state.provenance, backup=plan.backup, time_ms=started_ms),
        *timed,
        DriverEnded("FINISHED" if is_finished else "INTERRUPTED", time_ms=timed[-1].time_ms),
    ]


def _find_lost(events: list[Event], rebuilt: list[Event]) -> Iterator[Event]:
    """Yield the events that a journal lacks, which begins with some of them."""
    state = SweepState()
    for event in events:
        state.apply(event)
    for event in rebuilt:
        is_known = (
            (isinstance(event, SweepPlanned) and state.plan is not None)
            or (isinstance(event, DriverStarted) and state.driver_state is not None)
            or (isinstance(event, TrialStarted) and event.trial in state.records)
            or state.knows(event)
        )
        if not is_known:
            state.apply(event)
            yield event


def _of_trial(record: TrialRecord, epochs: list[EpochReported]) -> Iterator[Event]:
    yield TrialStarted(record.trial, record.attempts, record.params, record.origin, "", 0, time_ms=record.started_ms)
    yield from epochs
    if record.ended:
        ended_ms = max([record.started_ms, *(event.time_ms for event in epochs)])
        yield TrialEnded(record.trial, record.state, record.cause, record.message, time_ms=ended_ms)


def _read_epochs(plan: SweepPlan) -> dict[int, list[EpochReported]]:
    with answering() as client:
        return {
            trial: list(_read_trial(client, trial, run)) for trial, run in find_runs_of_trials(client, plan).items()
        }


def _read_trial(client: MlflowClient, trial: int, run: StoredRun) -> Iterator[EpochReported]:
    metrics: dict[int, dict[str, float]] = {}
    times: dict[int, int] = {}
    for name in run.metrics:
        if name.startswith(_COMPUTED):
            continue
        for point in client.get_metric_history(run.run_id, name):
            metrics.setdefault(point.step, {})[name] = _unclip(point.value)
            times[point.step] = int(point.timestamp)
    for epoch in sorted(metrics):
        yield EpochReported(trial, epoch, metrics[epoch], time_ms=times[epoch])


def _unclip(value: float) -> float:
    # A database has no infinity: MLflow writes the largest number for it.
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else float(value)
