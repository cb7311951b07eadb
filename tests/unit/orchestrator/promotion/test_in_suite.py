"""Test promotions of a benchmark: common seeds, no champion, no registration, seeds that are added."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.promote import promote_by_rule, promote_in_suite, resume_promotion
from orchestrator.promotion.verdict import Verdict
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.ledger import read_ledger
from tests.kit import sweeps
from tests.kit.fake_promotion import Store
from training.config.run import Scalar

SUITE = "mine-0a1b2c3d"
TAUS = (0.4, 0.5, 0.6, 0.7)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(monkeypatch)
    made.score_of = _score
    return made


def _score(plan: SweepPlan, point: Mapping[str, Scalar]) -> float:
    return 70 + 10 * float(point.get("method.cam_threshold") or 0) + math.sin(int(point["loop.seed"] or 0))


def _sweep(sweep_id: str, suite: str | None = SUITE) -> SweepPlan:
    plan = sweeps.make_sweep(sweep_id, num_trials=len(TAUS), suite=suite)
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, tau in enumerate(TAUS):
        params: dict[str, Any] = {"method.cam_threshold": tau}
        events.append(sweeps.trial_started(trial, 1, **params))
        events += [sweeps.epoch_reported(trial, epoch, 2, 70 + 10 * tau) for epoch in (1, 2, 3)]
        events.append(sweeps.trial_ended(trial, 3))
    sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
    return plan


def _promote(plan: SweepPlan, seeds: int = 3, race_runs: int = 6) -> PromotionOutcome:
    return promote_in_suite(plan.id, seeds=seeds, race_runs=race_runs)


def _seeds(plan: SweepPlan) -> list[int]:
    return [int(point["loop.seed"] or 0) for point in plan.start_from]


def test_all_sweeps_of_a_benchmark_have_the_same_fresh_seeds_and_races_of_their_own(store: Store) -> None:
    first, second = _promote(_sweep("mine-ignore-00000001")), _promote(_sweep("mine-em-00000002"))
    assert _seeds(first.plan) == _seeds(second.plan)
    assert first.plan.suite == second.plan.suite == SUITE
    races = [load_plan(entry.id) for entry in list_sweeps(kinds={"race"})]
    assert len(races) == 2
    assert all(race.suite == SUITE for race in races)
    used = [set(_seeds(race)) for race in races]
    assert not used[0] & used[1]
    assert not (used[0] | used[1]) & set(_seeds(first.plan))
    assert first.plan.concurrency == 2, "as many at a time as in the sweep"


def test_it_registers_nothing_and_knows_no_champion(store: Store) -> None:
    promote_by_rule(_sweep("digits-00000003", suite=None).id, seeds=3)
    assert len(store.versions) == 1
    outcome = _promote(_sweep("mine-ignore-00000001"))
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.KEEP
    assert f"benchmark {SUITE}" in outcome.decision.reason
    assert outcome.plan.num_trials == 3, "the champion does not run again"
    assert len(store.versions) == 1
    assert len(read_ledger()) == 2


def test_a_promotion_of_the_users_own_is_another_one(store: Store) -> None:
    plan = _sweep("mine-ignore-00000001")
    _promote(plan)
    own = promote_by_rule(plan.id, seeds=3)
    assert own.plan.suite is None
    assert own.decision is not None
    assert own.decision.verdict is Verdict.PROMOTE


def test_seeds_are_added_to_the_same_choice(store: Store) -> None:
    plan = _sweep("mine-ignore-00000001")
    first = _promote(plan)
    trained = store.trained
    assert _promote(plan).plan.id == first.plan.id
    assert store.trained == trained, "nothing is run twice"
    more = _promote(plan, seeds=5)
    assert more.plan.num_final == 2
    assert _seeds(more.plan) == [max(_seeds(first.plan)) + 1, max(_seeds(first.plan)) + 2]
    assert more.plan.choice is not None
    assert first.plan.choice is not None
    assert replace(more.plan.choice, seeds=3) == first.plan.choice
    assert [len(opening.seeds) for opening in read_ledger()] == [3, 2], "one more seed is another opening"


@pytest.mark.parametrize("stop", ["train race", "train promote", "evaluate"])
def test_what_was_interrupted_goes_on_where_it_stopped(store: Store, stop: str) -> None:
    plan = _sweep("mine-ignore-00000001")
    store.fail_at = stop
    with suppress(KeyboardInterrupt):
        assert _promote(plan).state == "INTERRUPTED"
    store.fail_at = None
    outcome = _promote(plan)
    assert outcome.decision is not None
    assert len(list_sweeps(kinds={"race"})) == len(list_sweeps(kinds={"promote"})) == 1
    assert len(read_ledger()) == 1
    resumed = resume_promotion(outcome.plan.id)
    assert (resumed.reused, resumed.decision) == (True, outcome.decision)


def test_without_a_race_the_best_score_is_reported(store: Store) -> None:
    outcome = _promote(_sweep("mine-ignore-00000001"), race_runs=0)
    assert outcome.plan.choice is not None
    assert (outcome.plan.choice.trial, outcome.plan.choice.race) == (3, None)
