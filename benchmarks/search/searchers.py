"""The searchers that are compared: changes to the plan of a sweep, and a scheduler if it is not the product's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.search.schedulers import Exempt, Pasha, Promotion, Relative
from benchmarks.search.simulate import Scheduler, Stopping
from orchestrator.planning.sweep_plan import SweepPlan


@dataclass(frozen=True)
class Searcher:
    """One searcher.

    Attributes:
        name: As the table shows it.
        changes: Fields of the plan that differ from random search at full length.
        make_scheduler: Plan -> scheduler.
        share: Which part of the trials the screen keeps, in place of a fixed number.
        is_slow: Whether proposing takes seconds, so that only one budget is measured, with ``nearest``.
        learns: Whether the best points of another table are tried first, as ``sweep --learn-from`` does.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    make_scheduler: Callable[[SweepPlan], Scheduler] = Stopping
    share: float | None = None
    is_slow: bool = False
    learns: bool = False

    def plan(self, base: SweepPlan, num_trials: int, workers: int, seed: int) -> SweepPlan:
        """Return the plan of one sweep."""
        plain: dict[str, Any] = {
            "sampler": "random",
            "scheduler": "none",
            "num_trials": num_trials,
            "concurrency": workers,
            "search_seed": seed,
        }
        kept = {} if self.share is None else {"keep": math.ceil(num_trials * self.share)}
        return replace(base, **{**plain, **self.changes, **kept})


FULL = Searcher("random, full length")
GRACES = (1, 2, 4, 6)
"""Epochs at which trials are compared first, of 10. 6 is the largest warm-up + 2, the default of ASHA."""
SCREENS = (1, 2, 3, 4)
FIFTH = 0.2


def _asha(grace: int, **changes: Any) -> dict[str, Any]:
    return {"scheduler": "asha", "grace_epochs": grace, "reduction_factor": 3.0, **changes}


def _screen(epoch: int, keep: int = 1) -> dict[str, Any]:
    return {"scheduler": "screen", "grace_epochs": epoch, "keep": keep}


def _tpe(startup: int = 8) -> dict[str, Any]:
    return {"sampler": "tpe", "startup_trials": startup}


_QUASI: dict[str, Any] = {"startup": "quasi_random"}
_GP: dict[str, Any] = {**_tpe(), "sampler": "gp"}

SEARCHERS: tuple[Searcher, ...] = (
    FULL,
    Searcher("quasi-random, full length", _QUASI),
    *(Searcher(f"random, screen at {epoch}, best {keep}", _screen(epoch, keep)) for epoch in GRACES for keep in (1, 3)),
    *(Searcher(f"random, screen at {epoch}, best fifth", _screen(epoch), share=FIFTH) for epoch in SCREENS),
    *(Searcher(f"random, screen at {epoch}, best third", _screen(epoch), share=1 / 3) for epoch in SCREENS),
    *(Searcher(f"random, screen at {epoch}, best half", _screen(epoch), share=0.5) for epoch in SCREENS),
    *(Searcher(f"random, ASHA from {grace}", _asha(grace)) for grace in GRACES),
    Searcher("random, ASHA from 2, one in 2", _asha(2, reduction_factor=2.0)),
    *(Searcher(f"random, ASHA promoting from {grace}", _asha(grace), Promotion) for grace in (1, 2, 4)),
    Searcher("random, ASHA from own warm-up + 2, at equal distance", {}, Relative),
    Searcher("random, ASHA, none before own warm-up + 2", {}, Exempt),
    Searcher("random, PASHA from 2", _asha(2, reduction_factor=2.0), partial(Pasha, tolerance=0.5)),
    Searcher("TPE, full length", _tpe()),
    Searcher("TPE, full length, 4 random first", _tpe(4)),
    *(Searcher(f"TPE, ASHA from {grace}", {**_tpe(), **_asha(grace)}) for grace in GRACES),
    *(Searcher(f"TPE, screen at {epoch}, best fifth", {**_tpe(), **_screen(epoch)}, share=FIFTH) for epoch in (2, 4)),
    Searcher("TPE, screen at 3, best half", {**_tpe(), **_screen(3)}, share=0.5),
    Searcher("quasi-random, then TPE, full length", {**_tpe(), **_QUASI}),
    Searcher("quasi-random, screen at 3, best half", {**_QUASI, **_screen(3)}, share=0.5),
    Searcher("quasi-random, then TPE, screen at 3, best half", {**_tpe(), **_QUASI, **_screen(3)}, share=0.5),
    Searcher("random, full length, learned from the other table", learns=True),
    Searcher("TPE, full length, learned from the other table", _tpe(), learns=True),
    Searcher("GP, full length", _GP, is_slow=True),
    *(Searcher(f"GP, ASHA from {grace}", {**_GP, **_asha(grace)}, is_slow=True) for grace in (2, 4)),
)
BY_NAME = {searcher.name: searcher for searcher in SEARCHERS}
FINALISTS = (
    FULL.name,
    "quasi-random, full length",
    "TPE, full length",
    "quasi-random, then TPE, full length",
    "random, screen at 2, best 3",
    "random, screen at 2, best fifth",
    "random, screen at 3, best half",
    "random, ASHA from 2",
    "TPE, ASHA from 2",
    "TPE, ASHA from 6",
    "TPE, screen at 3, best half",
    "quasi-random, then TPE, screen at 3, best half",
)
"""What is measured with every budget and both ways of looking up; the others only with 24 trials and ``nearest``."""
