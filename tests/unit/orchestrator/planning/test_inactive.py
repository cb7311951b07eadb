from __future__ import annotations

import pytest

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.settings import merge_settings
from search_spaces.reader import SpaceError
from search_spaces.schema import load_space
from tests.kit.merged import SPACE, Merge


def test_what_has_no_effect_is_not_searched() -> None:
    space = load_space("digits")
    tau, decay, warmup = "method.cam_threshold", "method.gap_decay", "method.warmup_epochs"
    searched = merge_settings(space, "ignore")
    assert {tau, decay, warmup} <= searched.ranges.keys()
    assert (searched.inactive, searched.sometimes_inactive) == ({}, {})
    for rejection, idle in (("none", {tau, decay, warmup}), ("oracle", {tau, decay})):
        found = merge_settings(space, "ignore", overrides={"method.rejection": rejection})
        assert searched.ranges.keys() - found.ranges.keys() == idle, rejection
        assert set(found.inactive) == idle
        assert all(not idle & point.keys() for point in found.start_from)
        # The shipped variants say nothing of it again.
        label = {"none": "ignore_without_rejection", "oracle": "ignore_oracle"}[rejection]
        assert merge_settings(space, label).ranges.keys() == found.ranges.keys()
    notes = make_plan(PlanRequest(space, overrides={"method.rejection": "none"})).notes
    assert f"{tau} is not searched: it has no effect with method.rejection=none" in notes
    assert not any("no effect" in note for note in make_plan(PlanRequest(space, method="ignore_oracle")).notes)


def test_a_start_point_is_planned_without_what_has_no_effect_in_it(merge: Merge) -> None:
    text = SPACE.replace(
        "method.warmup_epochs",
        "method.rejection: {type: categorical, choices: [gap, none]}\n      method.warmup_epochs",
        1,
    )
    text = text.replace(
        "    start_from:", "    acts_when: {method.cam_threshold: {method.rejection: [gap]}}\n    start_from:", 1
    )
    text = text.replace("0.5, method.warmup_epochs: 2", "0.5, method.rejection: none, method.warmup_epochs: 2")
    found = merge(SPACE, text, method="ignore")
    assert found.start_from == (
        {"method.rejection": "none", "method.warmup_epochs": 2},
        {"method.cam_threshold": 0.6, "method.warmup_epochs": 2},
    )
    assert found.idle_in_start == {0: ["method.cam_threshold"]}
    # What the weight of a part switches off, whatever number it is above 0.
    off = {"method__lac_weight": 0.0, "method__plc_weight": 0.0}
    space = load_space("coco_q2l")
    assert "method.temperature" in merge_settings(space, "plc_lac").ranges
    found = merge_settings(space, "plc_lac", overrides={key.replace("__", "."): value for key, value in off.items()})
    assert found.inactive == {"method.temperature": "method.lac_weight"}


def test_where_the_condition_is_searched_the_plan_says_in_which_trials_a_setting_has_no_effect(merge: Merge) -> None:
    both = "method.rejection: {type: categorical, choices: [gap, none]}\n      method.warmup_epochs"
    when = "    acts_when:\n      method.cam_threshold: {method.rejection: [gap]}\n    start_from:"
    found = merge("method.warmup_epochs", both, method="ignore")
    assert found.sometimes_inactive == {}, "this space says nothing of it"
    text = SPACE.replace("method.warmup_epochs", both, 1)
    found = merge(SPACE, text.replace("    start_from:", when, 1), method="ignore")
    assert found.sometimes_inactive == {"method.cam_threshold": "with method.rejection=none"}
    assert "method.cam_threshold" in found.ranges
    assert found.acts_when == {"method.cam_threshold": {"method.rejection": ["gap"]}}
    circle = text.replace(
        "    start_from:",
        when.replace("start_", "  method.rejection: {method.cam_threshold: [above 0]}\n    start_"),
        1,
    )
    with pytest.raises(SpaceError, match=r":\d+: acts_when lets settings wait for each other: .*cam_threshold for"):
        merge(SPACE, circle, method="ignore")
    misspelt = text.replace("    start_from:", when.replace("method.rejection: [", "method.rejecton: ["), 1)
    with pytest.raises(
        SpaceError, match=r"acts_when must name settings of ignore, but got method\.rejecton.*rejection"
    ):
        merge(SPACE, misspelt, method="ignore")
