from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

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
    assert row(made, "search") == "tpe, seed 0; 8 random start-up trials, including start points"
    assert row(made, "pruning") == "ASHA; the best 1 in 3 continue after epoch 10"
    assert row(made, "selection") == "clean-val x clean-val (val/mAP)"
    assert row(made, "total epochs") == "250 to 480"  # 23 x 10 + 20, or 24 x 20
    assert str(row(made, "time")).startswith("about 4 min to 8 min, at 2 s per epoch")
    assert str(row(dataclasses.replace(made, concurrency=24), "time")).startswith("about 1 min, at 2 s per epoch")


@pytest.mark.parametrize(
    "overrides", [{"data.num_train": 400}, {"method.masked_pass_bn": "train"}, {"model.frozen_bn": True}]
)
def test_time_is_told_only_of_settings_that_were_measured(overrides: dict[str, Any]) -> None:
    assert row(plan(overrides=overrides), "time") is None


@pytest.mark.parametrize("overrides", [{"method.cam_threshold": 0.5}, {"loop.seed": 3}, {"loop.epochs": 12}])
def test_time_holds_where_an_epoch_costs_the_same(overrides: dict[str, Any]) -> None:
    assert row(plan(overrides=overrides), "time") is not None


def test_long_times_are_told_in_hours() -> None:
    assert "12 h 00 min" in str(
        row(dataclasses.replace(plan(epochs=5), num_trials=100, epoch_s=172.8, concurrency=2), "time")
    )


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
    made = plan(epochs=5)
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
