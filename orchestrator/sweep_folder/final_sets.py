"""Tell apart the runs of a promotion that belong to different openings of the test set."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import TestOpened


@dataclass(frozen=True)
class FinalSet:
    """Runs that one opening of the test set is for, failed or not: they differ in their training seeds alone.

    Attributes:
        trials: Their numbers, in the order of their seeds.
        is_champion: Whether they are runs of the champion, to compare with, and not of the winner.
    """

    trials: tuple[int, ...]
    is_champion: bool = False

    def opening_in(self, test: TestOpened) -> tuple[int | None, str | None]:
        """Return number and sha256 of their line in the test ledger, as the journal of the promotion has them."""
        if self.is_champion:
            return test.champion_opening, test.champion_line_hash
        return test.opening, test.line_hash


def final_sets(plan: SweepPlan) -> tuple[FinalSet, ...]:
    """Return the sets of a promotion's final runs: the winner's, then the champion's if it runs too."""
    winner = FinalSet(tuple(range(plan.num_final)))
    theirs = tuple(range(plan.num_final, plan.num_trials))
    return (winner, FinalSet(theirs, is_champion=True)) if theirs else (winner,)
