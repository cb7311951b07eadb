from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from orchestrator.planning.estimate import Timing, estimate_cost
from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.page import render_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.schema import load_space

DIGITS = load_space("digits")


def plan(**changes: Any) -> SweepPlan:
    return make_plan(PlanRequest(DIGITS, num_cpus=2, num_gpus=0, **changes))


def row(made: SweepPlan, name: str) -> str | None:
    """Return the text after a word at the start of a line."""
    found = re.search(rf"^  {name}  +(.*)$", "\n".join(render_plan(made)), flags=re.MULTILINE)
    return found.group(1) if found else None


def test_page_tells_what_runs_how_much_and_how_long() -> None:
    made = plan()
    assert render_plan(made)[0] == "sweep digits: ignore on digits, from digits"
    assert row(made, "trials") == "24, 20 epochs each, 2 at a time"
    assert row(made, "search") == "random, seed 0"
    learned = plan(overrides={"search.sampler": "tpe"})
    assert row(learned, "search") == "tpe, seed 0; 8 random start-up trials, including start points"
    assert row(made, "pruning") == "screen; all trials run to epoch 6, then the best 12 of 24 to epoch 20"
    assert row(made, "selection") == "clean-val x clean-val (val/mAP)"
    assert row(made, "total epochs") == "312"  # 24 x 6 + 12 x 14
    assert row(made, "cost") == "0.17 CPU-hours (p50), 0.24 (p90)"
    assert row(made, "promotion") == "0.14 CPU-hours more, for 13 runs: at most 8 in the race, 5 reported"
    assert row(made, "time") == "about 5 min (p50), 7 min (p90), on resources for 2 at a time"
    assert row(made, "pace") == "2 s per epoch, as measured when the space was written"
    assert row(made, "survival") == "the screen lets 12 of 24 trials run to their end"


def test_page_tells_what_asha_does_and_what_it_is_expected_to_cost() -> None:
    made = plan(overrides={"scheduler.name": "asha"})
    assert row(made, "pruning") == "ASHA; the best 1 in 3 continue after epoch 10"
    assert row(made, "total epochs") == "250 to 480, about 336 expected"  # 23 x 10 + 20, or 24 x 20
    assert row(made, "cost") == "0.19 CPU-hours (p50), 0.25 (p90)"
    assert row(made, "time") == "about 6 min (p50), 8 min (p90), on resources for 2 at a time"
    assert str(row(made, "survival")).startswith("ASHA is expected to let 40 % run to their end")


def test_page_tells_what_the_screen_does_and_costs_also_with_one_trial_at_a_time() -> None:
    for concurrency, minutes in ((1, 6), (2, 3)):
        made = plan(overrides={"scheduler.grace_epochs": 5, "scheduler.keep": 3}, concurrency=concurrency)
        assert row(made, "pruning") == "screen; all trials run to epoch 5, then the best 3 of 24 to epoch 20"
        assert row(made, "total epochs") == "165"  # 24 x 5 + 3 x 15
        assert row(made, "cost") == "0.092 CPU-hours (p50), 0.13 (p90)"
        assert row(made, "survival") == "the screen lets 3 of 24 trials run to their end"
        assert str(row(made, "time")).startswith(f"about {minutes} min (p50)"), row(made, "time")
        assert not any("one trial at a time" in line for line in render_plan(made))


def test_trials_that_share_resources_do_not_make_a_sweep_faster() -> None:
    shared = plan(concurrency=50)
    assert str(row(shared, "trials")).endswith("24 at a time")
    assert row(shared, "time") == row(plan(), "time")


def test_money_and_limit_are_told_with_what_the_promotion_takes() -> None:
    made = plan(max_gpu_hours=0.2)
    assert made.cost is not None
    priced = dataclasses.replace(made, cost=dataclasses.replace(made.cost, price_per_hour=2))
    assert row(priced, "money") == "0.64 (p50), 0.76 (p90) with the promotion, at 2 per CPU-hour"
    kept = "0.2 CPU-hours, with what is kept for the promotion: enough for about"
    assert row(made, "limit") == f"{kept} 7 of 24 trials"
    assert str(row(plan(max_gpu_hours=5), "limit")).endswith(": enough")


@pytest.mark.parametrize(
    "overrides", [{"data.num_train": 400}, {"method.masked_pass_bn": "train"}, {"model.frozen_bn": True}]
)
def test_time_is_told_only_of_settings_that_were_measured(overrides: dict[str, Any]) -> None:
    made = plan(overrides=overrides)
    assert (made.cost, row(made, "time")) == (None, None)
    assert "Measure it: --probe" in str(row(made, "cost"))


@pytest.mark.parametrize("overrides", [{"method.cam_threshold": 0.5}, {"loop.seed": 3}, {"loop.epochs": 12}])
def test_time_holds_where_an_epoch_costs_the_same(overrides: dict[str, Any]) -> None:
    assert row(plan(overrides=overrides), "time") is not None


def test_long_times_are_told_in_hours() -> None:
    made = dataclasses.replace(plan(epochs=5), scheduler="none", num_trials=100, concurrency=2)
    # 100 trials of 5 epochs, two at a time, and half a trial in which one of the two has nothing left to do.
    cost = estimate_cost(made, Timing.of_one(172.8, "measured"), 2)
    assert str(row(dataclasses.replace(made, cost=cost), "time")).startswith("about 12 h 04 min (p50)")


def test_every_setting_is_on_the_page_once() -> None:
    for made in (
        plan(),
        plan(overrides={"method.cam_threshold": 0.5}),
        make_plan(PlanRequest(DIGITS, kind="train")),
        make_promotion_plan(plan(), plan().start_from[0], seeds=1),
    ):
        text = "\n".join(render_plan(made))
        for key in made.base:
            named = re.findall(rf"(?<![\w.]){re.escape(key)}(?: |=)", text)
            assert len(named) == 1 + (key in made.ranges and any(key in point for point in made.start_from)), key


def test_notes_end_the_page() -> None:
    made = plan(epochs=5, concurrency=4)
    assert render_plan(made)[-len(made.notes) :] == [f"note: {note}" for note in made.notes]
    assert len(made.notes) == 3


def test_promotion_shows_where_it_comes_from_and_each_run() -> None:
    made = make_promotion_plan(plan(), {"method.cam_threshold": 0.4}, seeds=2, workers=2)
    assert row(made, "from") == made.parent
    assert row(made, "per trial") == "2 workers x 1 CPU"
    text = "\n".join(render_plan(made))
    assert "loop.seed=1001" in text
    assert "loop.seed=1002" in text
    assert row(made, "search") is None


def test_gpus_are_named_where_there_are_any() -> None:
    assert row(make_plan(PlanRequest("voc", num_cpus=8, num_gpus=2)), "per trial") == "1 worker x 4 CPUs + 1 GPU"


def test_lines_fit_a_screen() -> None:
    assert max(map(len, render_plan(plan()))) <= 120
