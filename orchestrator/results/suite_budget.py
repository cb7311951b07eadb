"""Measure what the search of a benchmark's cell may spend, and what it has spent, in the unit of the budget."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.results.suite_cells import Cell, Key
from orchestrator.results.suite_record import Budget, SuiteRecord
from orchestrator.sweep_folder.spent import Spent
from training.config.passes import Images, count_most_images


def count_trial_images(plan: SweepPlan, num_train: int) -> Images:
    """Return the images of the most expensive trial of a search.

    Args:
        plan: The search.
        num_train: Images of the train split.
    """
    bounds = {key: found.bounds() for key, found in plan.ranges.items()}
    # One of several values may be the dearest, so all of a choice are tried; of a range, its ends.
    point = plan.start_from[0] if plan.start_from else {key: values[0] for key, values in bounds.items()}
    return count_most_images(trial_config(plan, point), bounds, num_train)


def find_allowed(record: SuiteRecord, dataset: str, cells: Mapping[Key, Cell]) -> float | None:
    """Return what each search on a dataset may spend: images, trials or hours.

    Returns:
        None if the budget is given in trials of a method whose own search has not begun.
    """
    budget = record.budget
    if budget.of is None:
        return budget.amount
    cell = cells.get((dataset, budget.of))
    if cell is None or cell.search is None:
        return None
    plan, state = cell.search
    num_train = state.provenance.get("num_train", "")
    return budget.amount * count_trial_images(plan, int(num_train)).total if num_train.isdigit() else None


def measure_spent(spent: Spent, budget: Budget, num_trials: int) -> float | None:
    """Return what a search has spent, in the unit of its budget."""
    if budget.by == "images":
        return spent.images
    return float(num_trials) if budget.by == "trials" else spent.hours
