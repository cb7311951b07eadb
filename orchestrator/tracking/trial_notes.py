"""Name the runs of trials in MLflow, and say in words how a trial ended."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.durations import format_seconds
from orchestrator.home import ERRORS_DIR, sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.terminal_text import show_controls
from orchestrator.tracking.markdown import block, escape
from training.config.run import Scalar

MAX_NOTE = 4900
"""Longest description in characters; servers before MLflow 3 take 5,000."""

# What a reader looks for first; these names come before those of other settings.
_LABELS = {
    "loop.seed": "seed",
    "optim.lr": "lr",
    "method.cam_threshold": "tau",
    "method.spbc_weight": "spbc",
    "method.reg_weight": "reg",
}
_NUM_NAMED = 4
_MAX_NAME = 100
_NUM_TRACEBACK_LINES = 15
_MAX_TRACEBACK = 3000


def name_run(plan: SweepPlan, record: TrialRecord) -> str:
    """Return the name of a trial's run: its number and the most telling of its settings, as ``t0006 lr 0.0036``."""
    # Start points may fix keys that are not searched; those say little.
    searched = [key for key in record.params if key in plan.ranges or not plan.ranges]
    known = list(_LABELS)
    # The sort is stable: other settings keep the order of the space.
    named = sorted(searched, key=lambda key: known.index(key) if key in _LABELS else len(known))[:_NUM_NAMED]
    words = [f"{label_param(key)} {format_value(record.params[key])}" for key in named]
    if plan.variants:  # of an ablation; its trials are numbered variant by variant, each with all its seeds
        words = [plan.variants[record.trial * len(plan.variants) // plan.num_trials], *words[:1]]
    return " ".join([trial_name(record.trial), *words])[:_MAX_NAME]


def label_param(key: str) -> str:
    """Return a short name of a setting: ``tau`` for ``method.cam_threshold``, else its last word."""
    return _LABELS.get(key, key.rpartition(".")[2])


def format_value(value: Scalar) -> str:
    """Return a setting's value with three digits at most."""
    return f"{value:.3g}" if isinstance(value, float) else show_controls(str(value))


def describe_trial(plan: SweepPlan, record: TrialRecord) -> str:
    """Return the description of a trial that has ended, as Markdown; that of a failed one has its traceback's end."""
    epochs = f"{record.last_epoch} of {plan.epochs} epochs"
    # Without marks: MLflow's list shows the beginning as it is.
    parts = [f"{_name_end(record)} after {epochs} in {format_seconds(record.run_s)}{_name_score(plan, record)}."]
    # One more, after it was set aside, is part of the search.
    num_attempts = record.attempts - (0 < record.set_aside_after < record.attempts)
    if num_attempts > 1:
        parts.append(f"It took {num_attempts} attempts.")
    if record.message:
        parts.append(escape(record.message))
    text = "\n\n".join(parts)
    lines = _read_traceback(plan, record) if record.state is TrialState.FAILED else []
    return text if not lines else f"{text[: MAX_NOTE - _MAX_TRACEBACK - 200]}\n\n{block(lines)}"


def _name_end(record: TrialRecord) -> str:
    return f"{record.state} ({record.cause})" if record.cause else str(record.state)


def _name_score(plan: SweepPlan, record: TrialRecord) -> str:
    value = record.value(plan.protocol)
    if value is None:
        return ""
    return f": {plan.protocol.metric} {value:.2f} at epoch {record.chosen_epoch(plan.protocol)}"


def _read_traceback(plan: SweepPlan, record: TrialRecord) -> Sequence[str]:
    path = sweep_dir(plan.id) / ERRORS_DIR / f"{trial_name(record.trial)}.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the failure has no traceback, or happened in another home
        return []
    kept: list[str] = []
    # From the end: the last line names the error.
    for line in reversed(text.rstrip().splitlines()[-_NUM_TRACEBACK_LINES:]):
        room = _MAX_TRACEBACK - sum(len(line) + 1 for line in kept)
        if room <= 0:
            break
        kept.insert(0, line[:room])
    return kept
