"""Turn the budget of a benchmark's cell into a number of trials, before and while its search runs. Pure functions."""

from __future__ import annotations

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.suite_cells import Work
from orchestrator.results.suite_record import Budget
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.spent import sum_spent
from training.config.passes import Images

_HOUR_S = 3600
_FIRST_TRIALS = 4
"""Of a budget in hours, when nothing is known about the time of a trial."""


def count_trials(plan: SweepPlan, budget: Budget, images: Images, amount: float) -> int:
    """Return how many trials a search begins with.

    Args:
        plan: The search.
        budget: Of the benchmark.
        images: Of its most expensive trial.
        amount: The budget in its unit: images, trials or hours.

    Raises:
        UserError: Not even one trial fits.
    """
    if budget.by == "trials":
        num = int(amount)
    elif budget.by == "images":
        num = int(amount // images.total)
    elif plan.epoch_s is None:
        num = _FIRST_TRIALS
    else:
        num = int(amount * _HOUR_S // (plan.epoch_s * plan.epochs * plan.resources.units))
    if num < 1:
        raise UserError(
            f"The budget, {budget}, is less than one trial of {plan.method} on {plan.dataset}, which passes "
            f"{images.total:,} images. Raise it with --budget."
        )
    return num if plan.num_points is None else min(num, plan.num_points)


def count_more_trials(work: Work, budget: Budget, images: Images, amount: float) -> int:
    """Return how many further trials the rest of a budget pays for, once all of a search have ended.

    Pruned and failed trials cost less than a whole one. A budget in images is never exceeded; one in hours is met as
    well as the mean time of a trial tells.

    Args:
        work: The search.
        budget, images, amount: As for :func:`count_trials`.
    """
    plan, state = work
    if budget.by == "trials":
        return 0
    spent = sum_spent((work,))
    if budget.by == "images":
        if spent.images is None:
            return 0
        more = int((amount - spent.images) // images.total)
    else:
        ended = [record.held_s for record in state.records.values() if record.state is TrialState.COMPLETE]
        if not sum(ended):
            return 0
        more = int((amount - spent.hours) // plan.resources.hours(sum(ended) / len(ended)))
    num = state.total(plan.num_trials)
    # A search without any complete trial would go on failing until its budget is spent.
    if not any(record.state is TrialState.COMPLETE for record in state.records.values()):
        return 0
    return max(0, more if plan.num_points is None else min(more, plan.num_points - num))
