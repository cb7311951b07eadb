"""The report of a promotion that the rule chose, next to a champion."""

from __future__ import annotations

from orchestrator.planning.choice import Choice
from orchestrator.report.openings import final_scores
from orchestrator.report.promotion_report import make_promotion_report
from orchestrator.sweep_folder.events import Event, TestOpened
from orchestrator.sweep_folder.journal import replay
from orchestrator.tracking.sweep_notes import tabulate_promotion
from tests.kit import sweeps

# Trial 0 has the best score; the race chose trial 2. Two seeds are reported.
CHOICE = Choice(
    2, 84.0, 83.0, 78.0, 85.0, 1.0, 1.0, "runs", (0, 2), blocks=3, budget=6, num_trials=8, seeds=2, workers=1
)


def test_the_champions_runs_are_not_counted_as_the_winners() -> None:
    seeds = tuple({"loop.seed": seed} for seed in (7, 8, 7, 8))
    plan = sweeps.make_sweep(
        "digits-promote-00000001", kind="promote", parent="gone", num_trials=4, start_from=seeds, choice=CHOICE
    )
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, score in enumerate((80.0, 82.0, 60.0, 62.0)):
        events += [sweeps.trial_started(trial, 1, **seeds[trial]), sweeps.epoch_reported(trial, 1, 2, score)]
        events.append(sweeps.trial_ended(trial, 3))
    figures = {str(trial): {"test/mAP": 70.0 - trial} for trial in range(4)}
    events.append(TestOpened(figures, dict.fromkeys(figures, 1)))
    sweeps.write_events(plan, events)
    state = replay(sweeps.journal_path(plan))
    assert final_scores(plan, state) == [80.0, 82.0]
    report = make_promotion_report(plan, state)
    said = " ".join(report.findings)
    assert "the 2 final runs have a mean of 81.00" in said
    assert "after the decision: 69.50 +- 0.71 test/mAP" in said
    steps = str(next(part for section in report.sections for part in section.parts if part.name == "steps"))
    assert "shrunken" in steps
    assert "+20.00" in steps, "the difference to the champion, seed by seed"
    notes = tabulate_promotion(plan, state, lambda trial: None)
    assert "| seed 8, champion | 62.00 | 67.00 |" in notes
    assert "**81.00 ± 1.41** | **69.50 ± 0.71**" in notes
