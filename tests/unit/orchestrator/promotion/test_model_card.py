"""The card of a registered model."""

from __future__ import annotations

from pathlib import Path

from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.promotion.model_card import render_card
from orchestrator.promotion.verdict import Decision, Result, Verdict
from tests.kit import sweeps


def test_card_says_what_and_how_well(home: Path) -> None:
    plan = make_promotion_plan(sweeps.make_sweep(num_trials=4), {}, seeds=2)
    decision = Decision(Verdict.PROMOTE, "there was no champion before it")
    test = {0: {"test/mAP": 50.0}, 1: {"test/mAP": 52.0}}
    config = trial_config(plan, plan.start_from[0])
    card = render_card(
        "digits.x",
        plan,
        config,
        ["a", "b"],
        {"commit": "c0ffee"},
        Result("digits-promote-1", {}, (60.0, 62.0)),
        decision,
        test,
    )
    assert "| test/mAP | 50.00 | 52.00 | 51.00 | 1.41 |" in card
    assert "| val/mAP | 60.00 | 62.00 | 61.00 | 1.41 |" in card
    assert "commit: `c0ffee`" in card
    assert "CC BY 2.0" in card
    assert "digits.x@champion" in card
