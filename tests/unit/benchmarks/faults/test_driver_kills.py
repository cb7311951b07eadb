"""Test that the checks of the kill test notice what is lost."""

from __future__ import annotations

from benchmarks.faults.driver_kills import Round, check_kept, count_epochs, render_report
from orchestrator.sweep_folder.events import Event
from tests.kit.sweeps import epoch_reported, trial_started


def test_what_was_in_the_journal_at_a_kill_must_be_there_at_the_end() -> None:
    then: list[Event] = [trial_started(0, 1), epoch_reported(0, 1, 2)]
    assert check_kept([then], [*then, epoch_reported(0, 2, 3)]) == []
    assert len(check_kept([then], then[:1])) == 1


def test_epochs_are_counted_as_often_as_they_are_there() -> None:
    assert count_epochs([trial_started(0, 1), epoch_reported(0, 1, 2), epoch_reported(0, 1, 3)]) == {(0, 1): 2}


def test_report_adds_up_the_rounds() -> None:
    report = render_report(
        [Round((0, 7), 20.0, 30, 0, 0, 0, ()), Round((3, 9), 30.0, 31, 1, 2, 3, ("1 epochs are lost",))], seed=0
    )
    for line in (
        "| sweeps | 2 |",
        "| drivers killed with -9 | 4 |",
        "| epochs in the journals at the end | 61 |",
        "| epochs lost, in journal or MLflow | 1 |",
        "| epochs doubled, in journal or MLflow | 2 |",
        "| orphans left | 3 |",
        "- sweep 2: 1 epochs are lost",
    ):
        assert line in report
