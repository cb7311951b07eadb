"""Find the promotions of a sweep, whose results its description in MLflow shows."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.sweep_notes import describe_promotion


def describe_promotions(plan: SweepPlan, state: SweepState) -> list[str]:
    """Return a description of each promotion of a sweep in this home that has decided, the latest first."""
    found: list[str] = []
    # Only a finished sweep can be promoted, and a running one is described often.
    if plan.kind == "promote" or state.driver_state != "FINISHED":
        return found
    for entry in list_sweeps(kinds={"promote"}):
        # One that is damaged, or that a later version wrote, hides no other.
        with suppress(OrchestratorError, UserError):
            promotion = load_plan(entry.id)
            if promotion.parent == plan.id:
                decided = replay(sweep_dir(entry.id) / JOURNAL_FILE)
                if decided.promotion is not None:
                    found.append(describe_promotion(promotion, decided))
    return found
