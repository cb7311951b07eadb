"""The orchestrator as a library: what is listed here is stable, everything else may change.

Names are loaded when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Sweep, load_model, make_plan, open_sweep, run_sweep
    from orchestrator.errors import OrchestratorError, UserError
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.results.frame import read_results

__all__ = [
    "OrchestratorError",
    "Sweep",
    "SweepPlan",
    "UserError",
    "load_model",
    "make_plan",
    "open_sweep",
    "read_results",
    "run_sweep",
]

_PLACES = {
    **dict.fromkeys(("Sweep", "load_model", "make_plan", "open_sweep", "run_sweep"), "orchestrator.api"),
    **dict.fromkeys(("OrchestratorError", "UserError"), "orchestrator.errors"),
    "SweepPlan": "orchestrator.planning.sweep_plan",
    "read_results": "orchestrator.results.frame",
}

if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
