from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from orchestrator.report.view import TAU, SweepView, measure_noise
from orchestrator.sweep_folder.state import SweepState
from tests.kit.search_journal import search_plan, search_state
from tests.kit.sweeps import make_sweep, whole_sweep


def make_view(num_trials: int = 24, **changes: Any) -> SweepView:
    plan = search_plan(num_trials, **changes)
    return SweepView(plan, search_state(plan))


def test_scores_are_compared_at_the_epoch_that_all_trials_reached() -> None:
    pruned = make_view()
    assert pruned.comparable.epoch == 2
    assert set(pruned.comparable.scores) == set(range(24)) - {10, 21}, "two trials failed at epoch 1"
    assert "2" in pruned.comparable.label
    whole = make_view(scheduler="none")
    assert whole.comparable.epoch is None
    assert whole.comparable.scores == whole.complete


def test_parameters_lie_in_their_ranges_tau_first() -> None:
    view = make_view()
    assert [each.name for each in view.parameters] == ["cam_threshold", "spbc_weight", "reg_weight", "batch_size"]
    tau, _, reg, batch = view.parameters
    assert tau.key == TAU
    assert (tau.place(0.6), reg.place(0.1)) == pytest.approx((0.5, 0.5))
    assert reg.value(0.5) == pytest.approx(0.1)
    assert [batch.place(value) for value in (16, 32, 64)] == [0.0, 0.5, 1.0], "in the order of the numbers"
    trials, points = view.points
    assert points.shape == (len(trials), 4)
    assert points.min() >= 0
    assert points.max() <= 1


def test_each_attempt_has_a_lane_of_its_own_and_what_is_left_is_idle() -> None:
    view = make_view()
    assert view.num_lanes == 2
    for lane in range(2):
        own = [attempt for attempt in view.attempts if attempt.lane == lane]
        assert all(before.end_s <= after.start_s for before, after in pairwise(own))
    spent = view.spent_s()
    assert {"COMPLETE", "PRUNED", "FAILED", "LOST", "idle"} == set(spent)
    assert spent["LOST"] == pytest.approx(3.0), "three attempts of a second each"
    driven = sum(end - start for start, end in view.driver_spans_s)
    assert sum(spent.values()) == pytest.approx(2 * driven)


def test_the_time_between_two_drivers_is_not_idle() -> None:
    plan = make_sweep(num_trials=4)
    state = SweepState()
    for event in whole_sweep(plan):
        state.apply(event)
    view = SweepView(plan, state)
    assert view.driver_spans_s == [(0.0, 7.5), (20.0, 25.0)]
    assert sum(view.spent_s().values()) == pytest.approx(2 * 12.5)


def test_noise_needs_two_seeds_that_differ() -> None:
    assert measure_noise([80.0], "p") is None
    assert measure_noise([80.0, 80.0], "p") is None
    noise = measure_noise([80.0, 82.0, 81.0], "p")
    assert noise is not None
    assert (noise.deviation.value, noise.num_seeds) == (1.0, 3)
