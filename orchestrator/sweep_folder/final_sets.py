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
        draw: Number of their label draw, from 0, which is the sweep's own.
        is_champion: Whether they are runs of the champion, to compare with, and not of the winner.
    """

    trials: tuple[int, ...]
    draw: int = 0
    is_champion: bool = False

    @property
    def key(self) -> str:
        """Name of a set on a further label draw in a journal: its first run."""
        return str(self.trials[0])

    def opening_in(self, test: TestOpened) -> tuple[int | None, str | None]:
        """Return number and sha256 of their line in the test ledger, as the journal of the promotion has them."""
        if self.draw:
            numbers, hashes = test.draw_openings or {}, test.draw_line_hashes or {}
            return numbers.get(self.key), hashes.get(self.key)
        if self.is_champion:
            return test.champion_opening, test.champion_line_hash
        return test.opening, test.line_hash


def final_sets(plan: SweepPlan) -> tuple[FinalSet, ...]:
    """Return the sets of a promotion's final runs: the winner's, one per label draw, then the champion's if it runs."""
    width = plan.num_seeds
    starts = range(0, plan.num_trials, width)
    return tuple(
        FinalSet(tuple(range(start, start + width)), start // width % plan.num_draws, start >= plan.num_final)
        for start in starts
    )
