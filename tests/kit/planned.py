"""Plans of the digits space on a machine of two CPUs, for tests of planning."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.schema import load_space

DIGITS = load_space("digits")


def plan(**changes: Any) -> SweepPlan:
    """Return the plan of a sweep, unless a change says otherwise."""
    return make_plan(PlanRequest(DIGITS, **{"num_cpus": 2, "num_gpus": 0, **changes}))
