"""The searchers that are compared: changes to the plan of a sweep, and a scheduler if it is not the product's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.search.schedulers import Exempt, Pasha, Promotion, Relative, Screen
from benchmarks.search.simulate import Scheduler, Stopping
from orchestrator.planning.sweep_plan import SweepPlan


@dataclass(frozen=True)
class Searcher:
    """One searcher.

    Attributes:
        name: As the table shows it.
        changes: Fields of the plan that differ from random search at full length.
        make_scheduler: Plan -> scheduler.
        is_slow: Whether proposing takes so long that only one budget is measured.
        learns: Whether the best points of another table are tried first, as ``sweep --learn-from`` does.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    make_scheduler: Callable[[SweepPlan], Scheduler] = Stopping
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
        return replace(base, **{**plain, **self.changes})


FULL = Searcher("random, full length")
GRACES = (2, 4, 6)
"""Epochs at which trials are compared first, of 10."""


def _asha(grace: int, **changes: Any) -> dict[str, Any]:
    return {"scheduler": "asha", "grace_epochs": grace, "reduction_factor": 3.0, **changes}


def _tpe(startup: int = 8) -> dict[str, Any]:
    return {"sampler": "tpe", "startup_trials": startup}


SEARCHERS: tuple[Searcher, ...] = (
    FULL,
    Searcher("quasi-random, full length", {"startup": "quasi_random"}),
    *(
        Searcher(f"random, epoch {grace}, best {kept}", {}, partial(Screen, epoch=grace, kept=kept))
        for grace in GRACES
        for kept in (1, 3)
    ),
    *(Searcher(f"random, ASHA from {grace}", _asha(grace)) for grace in GRACES),
    *(Searcher(f"random, ASHA promoting from {grace}", _asha(grace), Promotion) for grace in GRACES),
    Searcher("random, ASHA from own warm-up + 2, at equal distance", {}, Relative),
    Searcher("random, ASHA, none before own warm-up + 2", {}, Exempt),
    Searcher("random, PASHA from 2", _asha(2, reduction_factor=2.0), partial(Pasha, tolerance=0.5)),
    Searcher("TPE, full length", _tpe()),
    Searcher("TPE, full length, 4 random first", _tpe(4)),
    *(Searcher(f"TPE, ASHA from {grace}", {**_tpe(), **_asha(grace)}) for grace in GRACES),
    Searcher("quasi-random, then TPE, full length", {**_tpe(), "startup": "quasi_random"}),
    Searcher("random, full length, learned from the other table", learns=True),
    Searcher("TPE, full length, learned from the other table", _tpe(), learns=True),
    Searcher("GP, full length", {**_tpe(), "sampler": "gp"}, is_slow=True),
    *(
        Searcher(f"GP, ASHA from {grace}", {**_tpe(), "sampler": "gp", **_asha(grace)}, is_slow=True)
        for grace in GRACES
    ),
    *(
        Searcher(
            f"quasi-random, epoch {grace}, best 3",
            {"startup": "quasi_random"},
            partial(Screen, epoch=grace, kept=3),
        )
        for grace in GRACES
    ),
)
BY_NAME = {searcher.name: searcher for searcher in SEARCHERS}
