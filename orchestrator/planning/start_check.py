"""Check everything that can be known before Ray starts: the model, the data, and room on this machine."""

from __future__ import annotations

from orchestrator.planning.capacity import require_room_here
from orchestrator.planning.data_fit import check_data
from orchestrator.planning.model_fit import check_model
from orchestrator.planning.sweep_plan import SweepPlan


def require_startable(plan: SweepPlan, address: str | None = None) -> None:
    """Check a plan before it is started, so that a missing dataset or GPU is reported at once.

    Args:
        plan: What is to run.
        address: Address of the Ray cluster that runs it; None is this machine.

    Raises:
        UserError, ConfigError: The model, the data or this machine do not fit the plan.
        DatasetError: The data is not prepared.
    """
    check_model(plan)
    check_data(plan, address)
    if address is None:
        require_room_here(plan)
