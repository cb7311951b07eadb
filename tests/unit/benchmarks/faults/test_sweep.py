"""Test that the final checks of a sweep notice lost epochs, and training repeated from too early an epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from benchmarks.faults.sweep import FaultSweep, Start, check_starts, find_starts, find_uncopied
from orchestrator.home import HOME_VARIABLE
from orchestrator.sweep_folder.events import Event
from tests.kit import sweeps
from tests.kit.sweeps import trial_ended, trial_started
from tests.kit.trivial_run import RESUMED_FROM

ID = "narrow-00000001"


def epoch(number: int, began: int, trial: int = 0) -> Event:
    """An epoch of an attempt that continued from another epoch."""
    event = sweeps.epoch_reported(trial, number, number)
    return replace(event, metrics={**event.metrics, RESUMED_FROM: float(began)})


def attempt(number: int, began: int, *epochs: int) -> list[Event]:
    return [trial_started(0, number, attempt=number), *(epoch(each, began) for each in epochs)]


def make_sweep(*events: Event, sweep_id: str = ID) -> FaultSweep:
    plan = sweeps.make_sweep(sweep_id, num_trials=1)
    sweeps.write_events(plan, [sweeps.driver_started(plan), *events])
    return FaultSweep(cast(Any, None), cast(Any, None), sweep_id, trials=1, epochs=9)


def test_an_attempt_goes_on_where_its_trial_was() -> None:
    events = attempt(1, 0, 1, 2) + attempt(2, 2, 3, 4) + attempt(3, 0) + attempt(4, 5, 5, 6)
    assert find_starts(events) == [Start(0, 1, 0, 0, 0), Start(0, 2, 2, 2, 2), Start(0, 4, 4, 4, 5)]
    assert check_starts(find_starts(events), {}) == []


@pytest.mark.parametrize(("began", "next_"), [(0, 3), (1, 3), (4, 5)])
def test_a_checkpoint_that_was_not_used_is_seen_although_the_journal_has_every_epoch_once(
    began: int, next_: int
) -> None:
    sweep = make_sweep(*attempt(1, 0, 1, 2), *attempt(2, began, *range(next_, 6)), trial_ended(0, 9))
    sweep.known = {(0, 1), (0, 2)}
    assert sweep.count_lost() == 0
    assert f"attempt 2 of trial 0 started from epoch {began}, but 2 was known" in sweep.check()[0]
    assert sweep.count_run_again() == max(0, 2 - began)


def test_a_checkpoint_cut_short_may_cost_one_epoch_once() -> None:
    once = attempt(1, 0, 1, 2, 3) + attempt(2, 3) + attempt(3, 2, 4)
    assert check_starts(find_starts(once), {0: 1}) == []
    assert len(check_starts(find_starts(once), {})) == 1
    assert len(check_starts(find_starts(once), {0: 3})) == 1, "it was cut after that attempt"
    twice = once + attempt(4, 3, 5)
    assert len(check_starts(find_starts(twice), {0: 1})) == 1
    assert len(check_starts(find_starts(attempt(1, 0, 1, 2, 3) + attempt(2, 1, 4)), {0: 1})) == 1


def lose_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, after: list[Event]) -> FaultSweep:
    """Five epochs were known, two of them copied."""
    old = make_sweep(*attempt(1, 0, 1, 2, 3, 4, 5))
    old.remember()
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "another"))
    new = make_sweep(*attempt(1, 0, 1, 2))
    new.known = old.known
    new.note_loss()
    sweeps.write_events(cast(Any, new), [*after, trial_ended(0, 20)])
    return new


@pytest.mark.parametrize(("checkpoint", "missing"), [(5, {(0, 3), (0, 4)}), (6, {(0, 3), (0, 4), (0, 5)})])
def test_of_what_no_backup_had_the_last_is_said_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, checkpoint: int, missing: set[tuple[int, int]]
) -> None:
    sweep = lose_home(monkeypatch, tmp_path, attempt(2, checkpoint, checkpoint, 7, 8))
    assert find_uncopied(sweep.starts()) == missing
    assert (sweep.count_lost(), sweep.count_uncopied(), sweep.count_run_again()) == (0, len(missing), 0)


def test_of_what_no_backup_had_nothing_else_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    sweep = lose_home(monkeypatch, tmp_path, attempt(2, 5, 6))
    assert sweep.count_lost() == 1
    assert any("with epochs [1, 2, 6]" in fault for fault in sweep.check())


def test_a_trial_that_began_anew_after_a_loss_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    sweep = lose_home(monkeypatch, tmp_path, attempt(2, 0, 3, 4, 5))
    assert (sweep.count_lost(), sweep.count_run_again()) == (0, 5)
    assert "started from epoch 0, but 5 was known" in sweep.check()[0]
