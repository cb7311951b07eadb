"""Take start points from earlier sweeps, for ``sweep --learn-from``."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import Params, SweepPlan, trial_config
from orchestrator.sweep_folder.index import KIND_NOUNS, find_sweep
from orchestrator.sweep_folder.records import leaderboard
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep

POINTS_PER_SWEEP = 3
"""Best trials of a sweep that are tried again. More would leave few trials for the search itself."""


def rank_earlier_points(names: Sequence[str]) -> tuple[Params, ...]:
    """Return the settings of the best trials of earlier sweeps: the best of each sweep, then the second of each.

    Scores of different datasets cannot be compared, ranks can; so every sweep has the same say, in the order given.

    Args:
        names: Ids or names of sweeps; the latest of a name counts.

    Raises:
        UserError: One does not exist, is no sweep, or has no complete trial.
        OrchestratorError: One is damaged.
    """
    ranked = [_best_points(*read_sweep(find_sweep(name))) for name in names]
    return tuple(points[rank] for rank in range(POINTS_PER_SWEEP) for points in ranked if rank < len(points))


def _best_points(plan: SweepPlan, state: SweepState) -> list[Params]:
    if plan.kind != "sweep":
        raise UserError(
            f"--learn-from {plan.id} is {KIND_NOUNS[plan.kind]}; only a sweep has trials to learn from. "
            "To see them: orchestrator status"
        )
    rows = [row for row in leaderboard(state.records.values(), plan.protocol) if row["rank"] is not None]
    if not rows:
        raise UserError(f"--learn-from {plan.id} has no complete trial yet. See: orchestrator leaderboard {plan.id}")
    # With what was fixed there: it may be searched now.
    return [dict(trial_config(plan, row["params"]).flatten()) for row in rows[:POINTS_PER_SWEEP]]
