from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from orchestrator.planning.cost import Reserve, count_race_runs
from orchestrator.planning.estimate import (
    Survival,
    Timing,
    count_affordable,
    estimate_cost,
    expect_survival,
    expect_survivors,
    has_same_rungs,
    is_alike,
    record_survival,
    time_trials,
)
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from search_spaces.schema import load_space

DIGITS = load_space("digits")


def plan(**changes: Any) -> SweepPlan:
    overrides = {"scheduler.name": "asha", **changes.pop("overrides", {})}
    return make_plan(PlanRequest(DIGITS, num_cpus=2, num_gpus=0, overrides=overrides, **changes))


def unpruned(**changes: Any) -> SweepPlan:
    return dataclasses.replace(plan(), scheduler="none", **changes)


def test_cost_of_trials_that_all_run_to_their_end() -> None:
    # 4 trials of 20 epochs of 9 s, and 36 s until the first epoch: 4 x 216 s = 0.24 h; nothing varies.
    made = unpruned(num_trials=4, concurrency=2, kind="ablate")
    cost = estimate_cost(made, Timing(9.0, 0.0, 1, "measured", start_s=36.0), slots=2)
    assert (cost.p50_hours, cost.p90_hours) == pytest.approx((0.24, 0.24))
    assert cost.epochs == 80
    # 864 s on two slots, and half a trial of 216 s in which one of two has nothing left.
    assert cost.p50_wall_s == pytest.approx(432 + 54)
    assert (cost.reserved_runs, cost.reserved_hours) == (0, 0)
    gpus = dataclasses.replace(made, resources=Resources(2, 4, 1.0))
    assert estimate_cost(gpus, Timing(9.0, 0.0, 1, "measured", start_s=36.0), slots=2).p50_hours == pytest.approx(0.48)


def test_p90_has_the_spread_of_trials_and_what_is_not_known_of_their_mean() -> None:
    made = unpruned(num_trials=4, concurrency=2)
    cost = estimate_cost(made, Timing(9.0, 3.0, 9, "measured"), slots=2)
    # A trial: variance 20^2 x 3^2; four of them 120^2. The mean of nine: (80 x 3)^2 / 9 = 80^2.
    deviation = math.sqrt(120**2 + 80**2)
    assert cost.p90_hours - cost.p50_hours == pytest.approx(1.2816 * deviation / 3600)
    # With two lengths, that varies too: 10 or 20 epochs of 9 s have a deviation of 45 s.
    halves = Survival({10: 0.5, 20: 0.5}, "made up")
    cost = estimate_cost(made, Timing(9.0, 0.0, 1, "measured"), 2, halves)
    assert cost.epochs == 60
    assert (cost.p90_hours - cost.p50_hours) * 3600 == pytest.approx(1.2816 * math.sqrt(4 * 45**2))


def test_asha_lets_more_than_one_in_eta_pass_while_few_were_there_before() -> None:
    # 1; then (1 + 0 / 3) / 2; (1 + 1 / 3) / 3; (1 + 2 / 3) / 4
    assert [expect_survivors(num, 3) for num in range(5)] == pytest.approx(
        [0, 1, 1.5, 1.5 + 4 / 9, 1.5 + 4 / 9 + 5 / 12]
    )
    assert expect_survivors(10_000, 3) / 10_000 == pytest.approx(1 / 3, abs=1e-3)


def test_expected_survival_is_that_of_the_real_pruner_on_random_scores() -> None:
    import random

    from orchestrator.trials.pruner import Pruner

    made = dataclasses.replace(plan(), num_trials=24, grace_epochs=2)
    assert made.rungs() == [2, 6, 18]
    dice = random.Random(0)
    epochs: list[int] = []
    for _ in range(60):
        pruner = Pruner(made)
        for trial in range(made.num_trials):
            epochs.append(next((e for e in range(1, 21) if pruner.cuts(trial, e, dice.random())), 20))
    expected = expect_survival(made)
    assert sum(expected.shares.values()) == pytest.approx(1)
    assert list(expected.shares) == [2, 6, 18, 20]
    assert sum(epochs) / len(epochs) == pytest.approx(expected.mean, rel=0.05)


def test_a_screened_sweep_costs_its_first_epochs_and_the_rest_of_those_that_are_kept() -> None:
    for num, kept in ((24, 3), (8, 1), (2, 3)):
        made = dataclasses.replace(unpruned(), num_trials=num, scheduler="screen", grace_epochs=5, keep=kept)
        share = 5 / 20 + min(kept, num) / num * (1 - 5 / 20)
        cost = estimate_cost(made, Timing(9.0, 0.0, 1, "measured", start_s=10.0), 1)
        assert cost.epochs == pytest.approx(num * 20 * share)
        starts_s = 10 * (num + min(kept, num))
        assert cost.p50_hours * 3600 == pytest.approx(num * 20 * share * 9 + starts_s)
        assert cost.p50_wall_s == pytest.approx(cost.p50_hours * 3600), "one at a time"
    made = dataclasses.replace(unpruned(), num_trials=24, scheduler="screen", grace_epochs=5, keep=3)
    cost = estimate_cost(made, Timing(9.0, 0.0, 1, "measured"), 2)
    # Half of what a run to the screen takes is idle, and the third of the best runs alone.
    assert cost.p50_wall_s == pytest.approx(24 * 45 / 2 + 45 / 4 + 2 * 135)
    assert count_affordable(dataclasses.replace(made, cost=cost), cost, cost.p50_hours + cost.reserved_hours) == 24
    fewer = cost.p50_hours + cost.reserved_hours - 10 * 45 / 3600
    assert count_affordable(made, cost, fewer) == 14, "the best three are paid for first"
    assert not has_same_rungs(made, made), "nothing is to be learned from an earlier one"


def test_survival_of_an_earlier_sweep_is_counted() -> None:
    found = record_survival(plan(), [10, 10, 10, 20], "digits-1")
    assert found.shares == {10: 0.75, 20: 0.25}
    assert (found.mean, found.mean_square) == (12.5, 175)
    assert found.basis == "25 % of the trials run to their end, as in digits-1"


def test_reserve_is_the_race_by_default_and_the_reported_seeds() -> None:
    assert [count_race_runs(full) for full in (0, 12, 14, 24)] == [6, 6, 7, 12]
    assert Reserve().count(24) == 17
    assert Reserve(with_champion=True).count(24) == 17 + 6 + 5, "it races like one of two candidates"
    assert Reserve(with_champion=True).count(2) == 6 + 5 + 3 + 5
    assert (Reserve(0, 3).count(24), Reserve(0.25, 3).count(40)) == (3, 13)
    cost = estimate_cost(unpruned(), Timing(9.0, 0.0, 1, "measured"), 2)
    assert cost.reserved_runs == 17
    assert cost.reserved_hours == pytest.approx(17 * 180 / 3600)


def test_limit_says_how_many_trials_it_is_enough_for() -> None:
    made = unpruned()
    cost = estimate_cost(made, Timing(180.0, 0.0, 1, "measured"), 2)  # a run takes an hour
    # 8 trials, a race of 6 and 5 reported seeds are 19 hours; 14 trials, 7 and 5 are 26.
    assert [count_affordable(made, cost, hours) for hours in (0.5, 12, 19, 26, 41, 100)] == [0, 1, 8, 14, 24, 24]


def test_timing_of_trials_is_by_their_means() -> None:
    found = time_trials([(20.0, 10), (12.0, 3)], [5.0, 7.0], "as in digits-1")
    assert (found.epoch_s, found.num, found.start_s) == (3.0, 2, 6.0)
    assert found.epoch_sd_s == pytest.approx(math.sqrt(2))
    assert time_trials([(20.0, 10)], [], "x").epoch_sd_s == 0.5  # a quarter of it is assumed


def test_alike_is_what_costs_the_same_per_epoch() -> None:
    made = plan()
    for same in ({"overrides": {"method.spbc_weight": 0.3, "data.draw_seed": 1}}, {"epochs": 12}, {"seed": 4}):
        assert is_alike(made, plan(**same)), same
    for other in (
        {"method": "em"},
        {"overrides": {"optim.batch_size": 16}},
        {"overrides": {"data.num_train": 400}},
        {"overrides": {"resources.cpus_per_worker": 2}},
        {"overrides": {"method.masked_pass_bn": "train"}},
    ):
        assert not is_alike(made, plan(**other)), other
    assert has_same_rungs(made, plan(trials=50))
    assert not has_same_rungs(made, plan(epochs=15))
    assert not has_same_rungs(unpruned(), unpruned())
