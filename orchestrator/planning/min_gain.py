"""Let a sweep end early, when the trials that it has left are expected to gain too little together."""

from __future__ import annotations

import math
from dataclasses import replace

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan


def end_below(plan: SweepPlan, points: float) -> SweepPlan:
    """Return a plan that ends early once the trials that are left are expected to gain fewer points.

    Raises:
        UserError: It is no positive number, or what is planned is no search that could be judged by its scores.
    """
    if not 0 < points < math.inf:
        raise UserError(f"--min-gain must be a number of points above 0, but got --min-gain={points:g}.")
    if plan.sampler == "grid" and plan.ranges:
        raise UserError(
            "--min-gain does not go with a grid: its points come in order, so those so far say nothing of the others. "
            "Leave it out, or search: --set search.sampler=tpe"
        )
    if plan.screen_epoch is not None:
        raise UserError(
            "--min-gain does not go with the screen, which lets no trial run to its end before all have been started. "
            "Leave it out, or let trials run: --set scheduler.name=asha"
        )
    if not plan.ranges:
        raise UserError("--min-gain needs a search, and here nothing is searched. Leave it out.")
    return replace(plan, min_gain=points)
