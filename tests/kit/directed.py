"""Directors of small sweeps, for tests that hand out and report trials themselves."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, TypeVar

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.trials.director import Director
from search_spaces.ranges import Range
from tests.kit.sweeps import driver_started, journal_path, make_sweep

RANGES = {"method.spbc_weight": Range(type="float", low=0, high=2)}


def make(**changes: Any) -> SweepPlan:
    """Return the plan of six trials of four epochs, one at a time."""
    settings: dict[str, Any] = {"ranges": RANGES, "num_trials": 6, "startup_trials": 2, "concurrency": 1}
    settings |= changes
    plan = make_sweep(**settings)
    return replace(plan, base=plan.base | {"loop.epochs": 4})


def begin(plan: SweepPlan, **callbacks: Any) -> Director:
    """Start a driver's director, on a new journal or on one that is there."""
    journal = Journal.open(journal_path(plan))
    journal.append(replace(driver_started(plan), time_ms=int(time.time() * 1000)))
    director = Director(plan, journal, **callbacks)
    director.record_missed_ends()
    return director


E = TypeVar("E", bound=Event)


def events(plan: SweepPlan, kind: type[E]) -> list[E]:
    """Return the events of one kind in a sweep's journal."""
    return [event for event in follow(journal_path(plan))[0] if isinstance(event, kind)]
