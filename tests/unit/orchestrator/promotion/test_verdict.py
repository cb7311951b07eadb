"""Test the decision on a promotion, which depends on its figures alone."""

from __future__ import annotations

import json

import pytest

from orchestrator.promotion.verdict import COMPARED_KEYS, Result, Verdict, decide, registered_name

IDENTITY = {
    "dataset": "digits",
    "data_hash": "da7a",
    "model": json.dumps({"name": "resnet_cam", "backbone": "digits/resnet12"}),
    "weights_hash": "3e1647",
    "recipe": "digits",
    "select_config_by": "clean-val",
    "select_epoch_by": "clean-val",
    "draw_seed": "1200",
    "world_size": "1",
}


def _result(*values: float | None, name: str = "digits-promote-1", **changes: str) -> Result:
    return Result(name, IDENTITY | changes, values)


class TestDecide:
    """Test each verdict, and the order in which reasons count."""

    def test_first_result_is_promoted(self) -> None:
        assert decide(_result(80.0, 82.0), None).verdict is Verdict.PROMOTE

    @pytest.mark.parametrize(("mean", "verdict"), [(81.1, Verdict.PROMOTE), (81.0, Verdict.KEEP), (80.9, Verdict.KEEP)])
    def test_only_a_strictly_higher_mean_is_promoted(self, mean: float, verdict: Verdict) -> None:
        decision = decide(_result(mean - 1, mean, mean + 1), _result(80.0, 81.0, 82.0, name="champ/3"))
        assert decision.verdict is verdict
        assert f"{mean:.2f}" in decision.reason
        assert "81.00 (80.00, 81.00, 82.00) of champ/3" in decision.reason

    @pytest.mark.parametrize("key", COMPARED_KEYS)
    def test_each_key_must_agree(self, key: str) -> None:
        decision = decide(_result(99.0, **{key: "other"}), _result(1.0, name="champ/3"))
        assert decision.verdict is Verdict.REFUSE
        assert f"{key} is other and not" in decision.reason
        assert "99.00" in decision.reason

    def test_another_draw_and_world_size_are_compared_and_marked(self) -> None:
        decision = decide(_result(90.0, draw_seed="7", world_size="2"), _result(80.0, 81.0))
        assert decision.verdict is Verdict.PROMOTE
        assert decision.marks == (
            "label-draw seed is 7 and not 1200",
            "world size is 2 and not 1",
            "number of seeds is 1 and not 2",
        )

    def test_another_set_up_in_one_recipe_is_marked(self) -> None:
        champion = _result(80.0, **{"loop.epochs": "20", "optim.schedule": "constant"})
        decision = decide(
            _result(90.0, **{"loop.epochs": "100", "optim.schedule": "constant", "loop.precision": "bf16"}), champion
        )
        assert decision.verdict is Verdict.PROMOTE
        assert decision.marks == ("number of epochs is 100 and not 20",), (
            "what an older champion does not say is not held against it"
        )

    def test_a_run_without_a_result_refuses(self) -> None:
        decision = decide(_result(90.0, None), None)
        assert decision.verdict is Verdict.REFUSE
        assert "90.00, none" in decision.reason
        assert decide(_result(None), None).verdict is Verdict.REFUSE

    def test_champions_of_other_conditions_are_named_and_not_compared(self) -> None:
        decision = decide(_result(60.0), None, [_result(90.0, data_hash="0ther")])
        assert decision.verdict is Verdict.PROMOTE
        assert len(decision.marks) == 1
        assert (
            "cannot be compared with: 90.00 (90.00) of digits-promote-1 (data_hash is da7a and not 0ther)"
            in decision.marks[0]
        )

    def test_unknown_data_refuses(self) -> None:
        decision = decide(_result(90.0, data_hash="unknown"), None)
        assert decision.verdict is Verdict.REFUSE
        assert "data_hash" in decision.reason


def test_name_is_made_of_the_keys_that_must_agree() -> None:
    name = registered_name(IDENTITY)
    assert name.rpartition(".")[0] == "digits.resnet_cam.clean-val.clean-val"
    assert len(name.rpartition(".")[2]) == 8
    assert registered_name(IDENTITY | {"draw_seed": "7", "world_size": "2"}) == name
    assert (
        len({registered_name(IDENTITY | {key: '{"name": "x"}'}) for key in COMPARED_KEYS} | {name})
        == len(COMPARED_KEYS) + 1
    )
