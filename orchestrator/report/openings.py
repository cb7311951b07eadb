"""Find what this home knows about promotions of a sweep: their seeds, and when they opened the test split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.view import SeedNoise, measure_noise
from orchestrator.results.opened_test import TestScores, count_test_openings, summarise_test
from orchestrator.sweep_folder.promotion_report import of_winner, score_runs
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweeps


@dataclass(frozen=True)
class Opening:
    """One promotion that has opened the test split."""

    promotion: str
    scores: TestScores


@dataclass(frozen=True)
class Openings:
    """How often a test set was opened, as far as this home knows.

    Attributes:
        own: Promotions of the sweep that opened it.
        of_data: How often in all, for whatever sweep, by the test ledger; None if the data is not known.
        problem: Why the ledger cannot be believed, if so.
    """

    own: tuple[Opening, ...] = ()
    of_data: int | None = None
    problem: str | None = None


def find_promotions(sweep_id: str) -> list[tuple[SweepPlan, SweepState]]:
    """Return the promotions of a sweep in this home, earliest first; one that cannot be read is left out."""
    found = [(plan, state) for plan, state in read_sweeps({"promote"}) if plan.parent == sweep_id]
    return found[::-1]


def find_openings(promotions: Iterable[tuple[SweepPlan, SweepState]], data_hash: str | None) -> Openings:
    """Return how often the test set was opened for a sweep, by its promotions, and for its data, by the ledger."""
    own = tuple(
        Opening(plan.id, summarise_test(state.test.figures, plan.num_seeds))
        for plan, state in promotions
        if state.test is not None
    )
    counted = count_test_openings(data_hash or "")
    return Openings(own, None if data_hash is None else counted.num, counted.problem)


def final_scores(plan: SweepPlan, state: SweepState) -> list[float]:
    """Return the selection metric of a promotion's complete runs of the winner; those of the champion come after."""
    return of_winner(score_runs(plan, state.records), plan)


def find_noise(promotions: Iterable[tuple[SweepPlan, SweepState]]) -> SeedNoise | None:
    """Return the deviation between seeds from the promotion with the most of them, or None if there is none."""
    known = [measure_noise(final_scores(plan, state), plan.id) for plan, state in promotions]
    return max((noise for noise in known if noise is not None), key=lambda noise: noise.num_seeds, default=None)
