"""Test how a budget becomes a number of trials, on figures computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.shared_ranges import find_unequal_ranges
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.results.suite_budget import count_trial_images
from orchestrator.results.suite_record import Budget
from orchestrator.suite.budget import count_more_trials, count_trials
from orchestrator.sweep_folder.events import EpochReported, Event
from orchestrator.sweep_folder.journal import replay
from search_spaces.ranges import Range
from tests.kit import sweeps
from training.config.passes import Images

IMAGES = Budget("images", 16.0, "ignore")
HOURS = Budget("gpu-hours", 1.0)

pytestmark = pytest.mark.usefixtures("home")


def make(**changes: Any) -> SweepPlan:
    found = Range(type="float", low=0.1, high=0.9)
    return sweeps.make_sweep(**{"ranges": {"method.cam_threshold": found}, **changes})


def run_trials(
    plan: SweepPlan, images: list[int], states: list[str], minutes: float = 10.0, waited: float | None = None
) -> None:
    """Write a finished search; a trial has passed so many images in so many minutes, some of which it waited."""
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, (num, state) in enumerate(zip(images, states, strict=True)):
        start, end = trial * minutes * 60, (trial + 1) * minutes * 60
        events.append(sweeps.trial_started(trial, start))
        if num:
            reported = sweeps.epoch_reported(trial, 1, end)
            counts = {"train/images_forward": num * 0.75, "train/images_backward": num * 0.25}
            events.append(
                EpochReported(
                    trial,
                    1,
                    {**reported.metrics, **counts},
                    queue_s=None if waited is None else waited * 60,
                    start_s=None,
                    time_ms=reported.time_ms,
                )
            )
        events.append(sweeps.trial_ended(trial, end, state, "NAN" if state == "FAILED" else None))
    sweeps.write_events(plan, [*events, sweeps.driver_ended(end)])


def more(plan: SweepPlan, budget: Budget, images: int, amount: float) -> int:
    return count_more_trials((plan, replay(sweeps.journal_path(plan))), budget, Images(images, 0), amount)


class TestBefore:
    def test_as_many_as_fit(self) -> None:
        plan = make()
        assert count_trials(plan, IMAGES, Images(120, 60), 1000) == 5
        assert count_trials(plan, Budget("trials", 7), Images(120, 60), 7) == 7
        # 3 epochs of 20 s with 2 CPUs are 120 CPU-seconds.
        on_two = replace(plan, epoch_s=20.0, resources=Resources(cpus_per_worker=2))
        assert count_trials(on_two, HOURS, Images(120, 60), 1.0) == 30
        assert count_trials(replace(on_two, epoch_s=None), HOURS, Images(120, 60), 1.0) == 4, "a few tell the time"

    def test_a_grid_has_no_more_than_its_points(self) -> None:
        plan = make(sampler="grid", ranges={"optim.batch_size": Range(type="categorical", choices=[16, 32])})
        assert count_trials(plan, IMAGES, Images(100, 0), 1000) == 2

    def test_less_than_one_trial_is_refused(self) -> None:
        with pytest.raises(UserError, match="is less than one trial of ignore on digits, which passes 180 images"):
            count_trials(make(), IMAGES, Images(120, 60), 100)

    def test_the_dearest_trial_counts(self) -> None:
        plan = make(ranges={"method.warmup_epochs": Range(type="int", low=1, high=2)}, start_from=())
        base = {**plan.base, "method.name": "crisp"}
        base = {key: value for key, value in base.items() if not key.startswith("method.") or key == "method.name"}
        # 3 epochs of 100 images; the train split is scored after epochs 1 and 2, if the warm-up is 1.
        assert count_trial_images(replace(plan, base=base), 100) == Images(500, 300)


class TestAfter:
    def test_pruned_and_failed_trials_leave_budget_for_others(self) -> None:
        plan = make()
        run_trials(plan, [180, 60, 20], ["COMPLETE", "PRUNED", "FAILED"])
        assert more(plan, IMAGES, 180, 640) == 2, "260 of 640 are spent, and 380 pay for two"
        assert more(plan, IMAGES, 180, 439) == 0
        assert more(plan, Budget("trials", 3), 180, 3) == 0

    def test_a_search_without_a_complete_trial_does_not_go_on_failing(self) -> None:
        plan = make()
        run_trials(plan, [10, 10, 10], ["FAILED"] * 3)
        assert more(plan, IMAGES, 180, 1000) == 0

    def test_hours_go_by_the_mean_time_of_a_trial(self) -> None:
        plan = make()
        run_trials(plan, [100, 100, 100], ["COMPLETE"] * 3, minutes=10)
        assert more(plan, HOURS, 100, 1.0) == 3
        assert more(plan, HOURS, 100, 0.5) == 0

    def test_a_wait_for_a_process_uses_up_no_hours(self) -> None:
        plan = make()
        run_trials(plan, [100, 100, 100], ["COMPLETE"] * 3, minutes=20, waited=10)
        assert more(plan, HOURS, 100, 1.0) == 3

    def test_runs_that_did_not_count_their_images(self) -> None:
        plan = make()
        sweeps.write_events(plan, sweeps.whole_sweep(plan))
        assert more(plan, IMAGES, 180, 1000) == 0


class TestSharedRanges:
    def test_learning_rate_decay_and_batch_must_be_searched_alike(self) -> None:
        first = make()
        assert find_unequal_ranges([first, replace(first, method="em", ranges={})]) is None, (
            "its own settings may differ"
        )
        lr = Range(type="float", low=1e-4, high=1e-2, log=True)
        second = replace(first, method="em", ranges={"optim.lr": lr})
        found = find_unequal_ranges([first, second])
        assert found == "optim.lr is fixed (1e-05) for ignore and searched (0.0001 to 0.01, log) for em"
