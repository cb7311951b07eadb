"""Check that methods which are to be compared are searched over the same values of the optimiser's settings."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planning.sweep_plan import SweepPlan

SHARED_KEYS = ("optim.lr", "optim.weight_decay", "optim.batch_size")


def find_unequal_ranges(plans: Sequence[SweepPlan]) -> str | None:
    """Return in words how the ranges of learning rate, weight decay and batch differ between the methods of a dataset.

    None if they are the same: the methods then differ in their own settings alone.
    """
    for key in SHARED_KEYS:
        first, *others = plans
        for other in others:
            ours, theirs = _values(first, key), _values(other, key)
            if ours != theirs:
                return f"{key} is {ours} for {first.method} and {theirs} for {other.method}"
    return None


def _values(plan: SweepPlan, key: str) -> str:
    return f"searched ({plan.ranges[key]})" if key in plan.ranges else f"fixed ({plan.base[key]})"
