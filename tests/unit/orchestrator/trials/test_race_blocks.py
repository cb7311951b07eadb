"""Test the runs of a race: block by block, without those of candidates that were dropped."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.choice import Choice
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.trials.proposers import make_proposer
from orchestrator.trials.race_blocks import read_race
from tests.kit import sweeps

CHOICE = Choice(
    0, 80.0, 79.0, 78.0, 80.0, 1.0, 1.0, "runs", (0, 1, 2), blocks=5, budget=15, num_trials=8, seeds=5, workers=1
)


def _race() -> SweepPlan:
    points: Any = tuple(
        {"method.cam_threshold": tau, "loop.seed": 1001 + block} for block in range(5) for tau in (0.4, 0.5, 0.6)
    )
    return sweeps.make_sweep(kind="race", choice=CHOICE, start_from=points, num_trials=15, scheduler="none")


def _run(plan: SweepPlan, place: int, score: float | None) -> TrialRecord:
    state = TrialState.FAILED if score is None else TrialState.COMPLETE
    metrics = {} if score is None else {1: {"val/mAP": score}}
    return TrialRecord(place, plan.start_from[place], "race", 0, state, metrics=metrics)


def test_candidates_run_with_common_seeds_until_they_are_dropped() -> None:
    plan = _race()
    order: list[int] = []
    proposer = make_proposer(plan)
    quality = (80.0, 80.0, 70.0)
    while (proposal := proposer.propose(len(order))) is not None:
        place = plan.start_from.index(proposal.params)
        order.append(place)
        block, candidate = divmod(place, 3)
        # The first two take turns at being ahead.
        proposer.learn(_run(plan, place, quality[candidate] + 0.1 * block + 0.3 * (-1) ** (block + candidate)))
        assert proposal.origin == "race"
    # Three blocks of all, then two without the third.
    assert order == [*range(9), 9, 10, 12, 13]


def test_a_driver_that_died_is_followed_by_one_that_repeats_nothing() -> None:
    plan = _race()
    records = [_run(plan, place, 80.0 - place % 3) for place in range(4)]
    proposal = make_proposer(plan, records).propose(4)
    assert proposal is not None
    assert proposal.params == plan.start_from[4]


def test_who_fails_is_out_and_who_is_alone_has_won() -> None:
    plan = _race()
    state = read_race(plan, [_run(plan, 0, 80.0), _run(plan, 1, None), _run(plan, 2, 79.0)])
    assert (state.left, state.failed, state.missing[:2]) == ((0, 2), (1,), (3, 5))
    state = read_race(plan, [_run(plan, 0, 80.0), _run(plan, 1, None), _run(plan, 2, None)])
    assert (state.left, state.missing) == ((0,), ())
    assert state.scores == {0: (80.0,), 1: (), 2: ()}
