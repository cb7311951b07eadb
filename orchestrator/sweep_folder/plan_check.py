"""Compare a sweep's ``plan.json`` with the plan that its journal recorded when the sweep began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.home import PLAN_FILE, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.state import SweepState
from training.config.run import PLACE_KEYS

_PLACES = frozenset({"storage", "backup", *(f"base.{key}" for key in PLACE_KEYS)})
"""Data and checkpoints may move; the hash of the data is compared when a driver starts."""
_MAX_SHOWN = 60


class PlanChangedError(OrchestratorError):
    """``plan.json`` is not what the sweep began with."""


def require_same_plan(plan: SweepPlan, state: SweepState) -> None:
    """Check that the file has the plan that the sweep began with, apart from places; earlier versions recorded none.

    Raises:
        PlanChangedError: It has another; the message names what changed.
    """
    if state.plan is None or (recorded := read_recorded(state.plan)) is None:
        return
    changed = list(describe_changes(recorded, plan))
    if changed:
        more = plan.num_trials - recorded.num_trials
        raise PlanChangedError(
            f"{sweep_dir(plan.id) / PLAN_FILE} is not the plan that {plan.id} began with: {', '.join(changed)}. A plan "
            f"does not change, because its trials would no longer be comparable. Delete the file, and `orchestrator "
            f"resume {plan.id}` writes it again as it was. Add trials with `orchestrator extend {plan.id} --trials "
            f"+{more if more > 0 else 12}`; for other settings, start a new sweep."
        )


def read_recorded(plain: Mapping[str, Any]) -> SweepPlan | None:
    """Return the plan that a journal recorded, or None if a later version did."""
    try:
        return SweepPlan.from_json(json.dumps(plain))
    except ValueError:
        return None


def describe_changes(before: SweepPlan, now: SweepPlan) -> Iterator[str]:
    """Yield each setting that differs between two plans, with both values, apart from places."""
    # As JSON, because there every part of a plan is a mapping that can be walked.
    plain_before, plain_now = json.loads(before.to_json()), json.loads(now.to_json())
    for name in plain_now:
        yield from _describe(name, plain_before[name], plain_now[name])


def _describe(name: str, before: object, now: object) -> Iterator[str]:
    if before == now or name in _PLACES:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _describe(f"{name}.{key}", before.get(key), now.get(key))
    else:
        yield f"{name.removeprefix('base.')} was {_shown(before)} and is {_shown(now)}"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."
