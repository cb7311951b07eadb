"""The tags and params of a sweep's runs in MLflow: what they are, where they come from and how they ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath

from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.provenance import UNKNOWN
from orchestrator.sweep_folder.promotion_report import make_report
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.trial_notes import describe_trial, name_run
from training.metric_names import EPOCH
from training.selection import Protocol, epoch_metric

RUN_NAME_TAG = "mlflow.runName"
NOTE_TAG = "mlflow.note.content"
NOTE_DIGEST_TAG = "orchestrator.note_digest"
PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "orchestrator.sweep"
TRIAL_TAG = "orchestrator.trial"
SUITE_TAG = "orchestrator.suite"
"""Of all runs of a benchmark, its own included."""
KIND_TAG = "orchestrator.kind"
METHOD_TAG = "orchestrator.method"
NUM_TRIALS_TAG = "orchestrator.num_trials"
"""Only a sweep's own run has this tag."""
SET_ASIDE_TAG = "orchestrator.set_aside"
"""Of a trial: at which epoch it waits at the screen."""
CHOSEN_TAG = "chosen."
"""Prefix of the tags with a trial's chosen epoch and its metrics there; MLflow itself lists only the last epoch's."""
LAYOUT_TAG = "orchestrator.layout"
LAYOUT = "2"
"""Runs of earlier versions lack the tag: they have no score of their own, no description and no dataset."""
TRIAL_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "FAILED",
    TrialState.SET_ASIDE: "SCHEDULED",
    # Neither running nor ended: `resume` continues it.
    TrialState.INTERRUPTED: "SCHEDULED",
}
DRIVER_STATUS = {"RUNNING": "RUNNING", "INTERRUPTED": "SCHEDULED", "FINISHED": "FINISHED", "FAILED": "FAILED"}

_MAX_TEXT = 500


def chosen_metric(protocol: Protocol) -> str:
    """Return the name of the metric with a trial's score at its chosen epoch, by which MLflow can sort."""
    return f"chosen/{protocol.metric}"


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
        "keep",
        "concurrency",
        "epochs",
    )
    return {f"search.{name}": str(getattr(plan, name)) for name in names}


def note_tags(note: str, stored: Mapping[str, str]) -> dict[str, str]:
    """Return the tags with a description; none if somebody has since changed it in MLflow, which is kept.

    Args:
        note: The description.
        stored: The run's tags as MLflow has them.
    """
    known = stored.get(NOTE_TAG)
    if known is not None and _digest(known) != stored.get(NOTE_DIGEST_TAG):
        return {}
    return {NOTE_TAG: note, NOTE_DIGEST_TAG: _digest(note)}


def trial_tags(plan: SweepPlan, record: TrialRecord, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a trial's run, except the link to its sweep's run."""
    # The seed may be searched or fixed per trial, so take the trial's and not the plan's.
    training_seed = record.params.get("loop.seed", plan.base.get("loop.seed"))
    tags = {
        **_common_tags(plan, {**provenance, "training_seed": str(training_seed)}),
        RUN_NAME_TAG: name_run(plan, record),
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
    if record.set_aside_after:
        # Empty once it continues or has ended: a tag cannot be taken back.
        tags[SET_ASIDE_TAG] = f"at epoch {record.last_epoch}" if record.state is TrialState.SET_ASIDE else ""
    # While it runs, its metrics say how far it is.
    if record.ended:
        tags[NOTE_TAG] = describe_trial(plan, record)
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
    if plan.kind in ("promote", "race"):
        found = make_report(plan, state.records, None if state.test is None else state.test.figures)
        tags |= {f"orchestrator.{key}": value[:_MAX_TEXT] for key, value in found.flatten().items()}
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
        LAYOUT_TAG: LAYOUT,
        # Without the folder of a space, which may be private; the whole text is an artifact of the sweep's run.
        **source_tags(f"{plan.kind} {plan.parent or PurePath(plan.space).name}", provenance),
        KIND_TAG: plan.kind,
        METHOD_TAG: plan.method,
        **({SUITE_TAG: plan.suite} if plan.suite else {}),
        "orchestrator.protocol": str(plan.protocol),
        **{f"provenance.{key}": value for key, value in provenance.items()},
    }


def source_tags(command: str, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that fill MLflow's columns "Source" and "Version"."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": f"orchestrator {command}"}
    known = {name: value for name in ("commit", "dirty") if (value := provenance.get(name, UNKNOWN)) != UNKNOWN}
    return tags | {f"mlflow.source.git.{name}": value for name, value in known.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
