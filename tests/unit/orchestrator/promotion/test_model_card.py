"""The card of a registered model."""

from __future__ import annotations

from pathlib import Path

from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.promotion.model_card import render_card
from orchestrator.promotion.verdict import Decision, Result, Verdict
from orchestrator.sweep_folder.promotion_report import make_report
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
        make_report(plan, {}, {str(trial): figures for trial, figures in test.items()}),
    )
    assert "| test/mAP | 50.00 | 52.00 | 51.00 | 1.41 |" in card
    assert "| val/mAP | 60.00 | 62.00 | 61.00 | 1.41 |" in card
    assert "commit: `c0ffee`" in card
    assert "CC BY 2.0" in card
    assert "digits.x@champion" in card


def test_further_label_draws_have_a_table_of_their_own_and_given_labels_are_said(home: Path) -> None:
    sweep, decision = sweeps.make_sweep(num_trials=4), Decision(Verdict.PROMOTE, "first")
    test = {run: {"test/mAP": score} for run, score in enumerate((50.0, 52.0, 53.0, 55.0, 56.0, 58.0))}
    cards = []
    for draws in ((1200, 1201, 1202), ()):
        plan = make_promotion_plan(sweep, {}, seeds=2, label_draws=draws)
        report = make_report(plan, {}, {str(run): figures for run, figures in test.items()})
        config, result = trial_config(plan, plan.start_from[0]), Result("digits-promote-1", {}, (60.0, 62.0))
        cards.append(render_card("digits.x", plan, config, ["a", "b"], {}, result, decision, test, report))
    drawn, given = cards
    assert "| test/mAP | 50.00 | 52.00 | 51.00 | 1.41 |" in drawn, "that of papers is the sweep's own draw"
    # By hand: draw means 51, 54, 57, deviation 3; within, variance 2; between, 9 - 2 / 2 = 8; t(2) = 4.303.
    assert (
        "| all draws, test/mAP | 54.00 | 46.55 to 61.45 | 3 label draws, 6 runs, deviation 2.83 between draws, "
        "deviation 1.41 between seeds |"
    ) in drawn
    assert "opened 3 times, once for each label draw" in drawn
    assert "none: the observed labels are given, so only seeds vary" in given
