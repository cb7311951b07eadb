"""Find what a promotion by the rule has already run, so that no run is repeated."""

from __future__ import annotations

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import TrialState


def find_by_rule(
    sweep_id: str, num_trials: int, *, seeds: int, workers: int | None, budget: int | None, num_draws: int | None = 1
) -> SweepPlan | None:
    """Return the final runs of the latest promotion by the rule that was asked for the same, else its race, if any.

    Args:
        sweep_id: The sweep.
        num_trials: How many trials it has: after an extension it is another choice.
        seeds, workers, budget, num_draws: As the user asked; None is any.
    """
    found = [
        plan for plan in list_promotions(sweep_id) if plan.choice is not None and plan.choice.num_trials == num_trials
    ]
    same = [
        plan
        for plan in found
        if plan.choice is not None
        and plan.choice.seeds == seeds
        and workers in (None, plan.choice.workers)
        and budget in (None, plan.choice.asked_budget)
        and num_draws in (None, plan.num_draws)
    ]
    # Failed final runs are never repeated, so only new ones can replace them.
    final = [plan for plan in same if plan.kind == "promote"]
    if final:
        return None if has_failed(final[0]) else final[0]
    return next(iter(same), None)


def find_final_runs(race_id: str, sweep_id: str, suite: str | None = None) -> SweepPlan | None:
    """Return the final runs that followed a race, or None if they have not begun."""
    plans = (plan for plan in list_promotions(sweep_id, suite) if plan.kind == "promote" and plan.choice is not None)
    return next((plan for plan in plans if plan.choice is not None and plan.choice.race == race_id), None)


def has_failed(plan: SweepPlan) -> bool:
    """Return whether a run of a promotion has failed."""
    records = replay(sweep_dir(plan.id) / JOURNAL_FILE).records.values()
    return any(record.state is TrialState.FAILED for record in records)


def list_promotions(sweep_id: str, suite: str | None = None) -> list[SweepPlan]:
    """Return the races and final runs of a sweep, the latest first: its own, or those of a benchmark."""
    plans = []
    for entry in list_sweeps(kinds={"promote", "race"}):
        try:
            plan = load_plan(entry.id)
        except OrchestratorError:
            continue  # written by another version, so its runs are different
        # The runs of a benchmark have its own seeds and no champion, so they are another promotion.
        if plan.parent == sweep_id and plan.suite == suite:
            plans.append(plan)
    return plans
