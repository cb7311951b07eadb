"""Say what each part of a promotion has cost: the search before it, the race, and the runs that are reported."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.durations import format_hours
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.sweep_folder.spent import Spent, sum_runs, sum_spent
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep

SEARCH, RACE, REPORTED, CHAMPION = "search", "race", "reported", "reported_champion"
_NAMES = {SEARCH: "search", RACE: "race", REPORTED: "reported runs", CHAMPION: "the champion's"}


def split_spent(plan: SweepPlan, state: SweepState) -> dict[str, Spent]:
    """Return what the parts of a promotion have cost, as far as this home has them.

    Args:
        plan: The race, or the final runs.
        state: Of those.

    Returns:
        ``search``, ``race`` unless there was none, ``reported`` (of the winner) and ``reported_champion``.
    """
    parts: dict[str, Spent | None] = {SEARCH: _read(plan.parent)}
    if plan.kind == "race":
        return _known({**parts, RACE: sum_spent([(plan, state)])})
    parts[RACE] = None if plan.choice is None else _read(plan.choice.race)
    runs: dict[bool, list[TrialRecord]] = {False: [], True: []}
    for trial, record in state.records.items():
        runs[trial >= plan.num_final].append(record)
    parts[REPORTED] = sum_runs(plan, runs[False])
    parts[CHAMPION] = sum_runs(plan, runs[True]) if runs[True] else None
    return _known(parts)


def _read(sweep_id: str | None) -> Spent | None:
    try:
        return None if sweep_id is None else sum_spent([read_sweep(sweep_id)])
    except (OrchestratorError, UserError):
        return None  # not in this home, or damaged: `audit` says so


def _known(parts: Mapping[str, Spent | None]) -> dict[str, Spent]:
    return {name: spent for name, spent in parts.items() if spent is not None}


def describe_spent(parts: Mapping[str, Spent], unit: str) -> list[str]:
    """Return a line of images and one of hours, part by part.

    Args:
        parts: As from :func:`split_spent`.
        unit: ``GPU-hours`` or ``CPU-hours``.
    """
    images = [f"{_NAMES[name]} {spent.images:,.0f}" for name, spent in parts.items() if spent.images]
    hours = [f"{_NAMES[name]} {format_hours(spent.hours)}" for name, spent in parts.items() if spent.hours]
    lines = [f"images  {', '.join(images)}, forward and backward"] if images else []
    return lines + ([f"{unit}  {', '.join(hours)}"] if hours else [])
