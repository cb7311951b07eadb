"""Rebuild a sweep's plan and state from MLflow, for users who can reach MLflow but not the home of its driver.

The result is approximate. A trial has only its chosen and its last epoch, with the protocol's metrics; its attempts are
one span of time; messages and reasons are cut to the length of a tag. MLflow lags behind the journal until everything
has been written, and shows a killed driver and its trials as RUNNING until the next resume.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import redact
from orchestrator.sweep_folder.events import PromotionDecided, TestOpened
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import tracking_uri
from orchestrator.tracking.run_tags import (
    CHOSEN_TAG,
    DRIVER_STATUS,
    NUM_TRIALS_TAG,
    SET_ASIDE_TAG,
    SWEEP_TAG,
    TRIAL_STATUS,
)
from orchestrator.tracking.runs import StoredRun
from orchestrator.tracking.store import find_logged_sweep
from training.metric_names import EPOCH
from training.selection import Protocol, epoch_metric

_OURS, _PROVENANCE, _TEST = "orchestrator.", "provenance.", "test/"
_TRIAL_STATES = {status: state for state, status in TRIAL_STATUS.items()}
_DRIVER_STATES = {status: state for state, status in DRIVER_STATUS.items()}


@dataclass(frozen=True)
class RecalledSweep:
    """A sweep from another home, as MLflow has it.

    Attributes:
        uri: MLflow's URI, without a password.
        reported_ms: Time of the last event that MLflow has; None before the first trial.
    """

    plan: SweepPlan
    state: SweepState
    uri: str
    reported_ms: int | None


def recall_sweep(name: str | None) -> RecalledSweep | None:
    """Return MLflow's sweep with an id, with a name (its latest), or the latest of all if ``name`` is None; else None.

    Raises:
        OrchestratorError: MLflow does not answer, or its copy of the plan is broken.
    """
    found = find_logged_sweep(name)
    if found is None:
        return None
    uri = redact(tracking_uri())
    try:
        plan = SweepPlan.from_json(found.plan_text)
    except ValueError as error:
        raise OrchestratorError(
            f"MLflow at {uri} has a broken plan.json of {found.own.tags[SWEEP_TAG]}: {error}"
        ) from None
    # Tags that earlier versions did not write are left out.
    reported = [int(run.tags[f"{_OURS}reported_ms"]) for run in found.trials if f"{_OURS}reported_ms" in run.tags]
    return RecalledSweep(plan, rebuild_state(plan, found.own, found.trials), uri, max(reported, default=None))


def rebuild_state(plan: SweepPlan, own: StoredRun, trials: Iterable[StoredRun]) -> SweepState:
    """Return the state of a sweep's journal at the time its runs were written.

    Args:
        plan: The sweep's plan.
        own: The sweep's own run.
        trials: The runs of its trials, oldest first; of two runs of one trial the older counts.
    """
    records: dict[int, TrialRecord] = {}
    figures: dict[str, dict[str, float]] = {}
    for run in trials:
        # The oldest run of a trial is the one that the writer continued.
        if run.trial is not None and run.trial not in records:
            records[run.trial] = rebuild_record(plan.protocol, run)
            if measured := {name: value for name, value in run.metrics.items() if name.startswith(_TEST)}:
                figures[str(run.trial)] = measured
    # A status has two names: ours, and the nearest one that MLflow has.
    tags, state = _take(own.tags, _OURS), _DRIVER_STATES.get(own.status)
    driver_started_ms = int(tags.get("driver_started_ms", own.started_ms))
    return SweepState(
        records=dict(sorted(records.items())),
        num_trials=int(own.tags.get(NUM_TRIALS_TAG, 0)),
        driver_state=state,
        provenance=_take(own.tags, _PROVENANCE),
        started_ms=own.started_ms,
        driver_started_ms=driver_started_ms,
        driver_spans=_driver_spans(
            round(1000 * float(tags.get("run_s", 0))), driver_started_ms, is_at_work=state == "RUNNING"
        ),
        promotion=_decision(tags),
        # Which epochs were evaluated is not known: MLflow lists only a metric's value.
        test=_test(figures, tags) if figures else None,
    )


def _test(figures: Mapping[str, Mapping[str, float]], tags: Mapping[str, str]) -> TestOpened:
    opening = tags.get("test_opening")
    return TestOpened(
        figures, epochs={}, opening=None if opening is None else int(opening), line_hash=tags.get("test_opening_hash")
    )


def _decision(tags: Mapping[str, str]) -> PromotionDecided | None:
    if "verdict" not in tags:
        return None
    return PromotionDecided(tags["verdict"], tags.get("reason", ""), marks=(), model=tags.get("model", ""))


def rebuild_record(protocol: Protocol, run: StoredRun) -> TrialRecord:
    """Return the record of a trial at the time its run was written."""
    tags = _take(run.tags, _OURS)
    assert run.trial is not None
    return TrialRecord(
        trial=run.trial,
        params=json.loads(tags.get("params", "{}")),
        origin=tags.get("origin", ""),
        started_ms=run.started_ms,
        state=TrialState.SET_ASIDE if run.tags.get(SET_ASIDE_TAG) else _TRIAL_STATES[run.status],
        cause=Cause(tags["cause"]) if "cause" in tags else None,
        message=tags.get("message"),
        metrics=_metrics(protocol, run),
        attempts=int(tags.get("attempts", 1)),
        # MLflow has neither the attempts nor the time between them.
        spans=((run.started_ms, run.started_ms + round(1000 * float(tags.get("run_s", 0)))),),
    )


def _metrics(protocol: Protocol, run: StoredRun) -> dict[int, dict[str, float]]:
    names = {protocol.metric, epoch_metric(protocol.select_epoch_by)}
    metrics: dict[int, dict[str, float]] = {}
    # MLflow lists only the last value of each metric, so other epochs cannot be distinguished.
    if run.last_epoch:
        metrics[run.last_epoch] = {name: value for name, value in run.metrics.items() if name in names}
    chosen = {name: float(value) for name, value in _take(run.tags, CHOSEN_TAG).items()}
    if EPOCH in chosen:
        metrics[int(chosen.pop(EPOCH))] = chosen
    return metrics


def _driver_spans(run_ms: int, driver_started_ms: int, *, is_at_work: bool) -> tuple[tuple[int, int], ...]:
    # Only the sum of the drivers' times is known; one span of that length represents them all.
    before = (driver_started_ms - run_ms, driver_started_ms)
    return (before, (driver_started_ms, driver_started_ms)) if is_at_work else (before,)


def _take(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}
