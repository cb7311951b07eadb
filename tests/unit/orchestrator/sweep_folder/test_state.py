"""Time counts only while a driver is at work: not from its death to the next start, whoever writes what it left."""

from __future__ import annotations

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import Event, PromotionDecided, SweepExtended, TrialLost
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.records import Cause, TrialRecord
from orchestrator.sweep_folder.state import SweepState
from tests.kit.sweeps import (
    START_MS,
    at,
    driver_ended,
    driver_started,
    epoch_reported,
    journal_path,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)

LATER = 8 * 3600.0


@pytest.fixture
def plan() -> SweepPlan:
    return make_sweep(num_trials=1)


def state_after(plan: SweepPlan, *events: Event) -> SweepState:
    write_events(plan, events)
    return replay(journal_path(plan))


def record_after(plan: SweepPlan, *events: Event) -> TrialRecord:
    return state_after(plan, *events).records[0]


def killed(plan: SweepPlan) -> list[Event]:
    """A driver that was killed between the last epoch of its trial and the trial's end, 4 s after its start."""
    return [driver_started(plan), trial_started(0, 1), epoch_reported(0, 1, 2), epoch_reported(0, 2, 4)]


def test_a_trial_whose_end_a_later_driver_writes_ended_with_its_last_epoch(plan: SweepPlan) -> None:
    record = record_after(plan, *killed(plan), driver_started(plan, LATER), trial_ended(0, LATER + 1))
    assert record.ended
    assert (record.run_s, record.spans) == (3.0, ((at(1), at(4)),))
    assert record.ended_ms == at(4)


def test_a_trial_that_goes_on_under_a_later_driver_counts_both_attempts(plan: SweepPlan) -> None:
    later = [trial_started(0, LATER + 1, attempt=2), epoch_reported(0, 3, LATER + 3), trial_ended(0, LATER + 3.5)]
    record = record_after(plan, *killed(plan), driver_started(plan, LATER), *later)
    assert (record.run_s, record.ended_ms) == (5.5, at(LATER + 3.5))


def test_a_loss_that_a_later_driver_writes_adds_no_time(plan: SweepPlan) -> None:
    lost = TrialLost(0, Cause.LOST, "worker died", time_ms=at(LATER + 1))
    state = state_after(plan, *killed(plan), driver_started(plan, LATER), lost)
    assert state.records[0].run_s == 3.0
    assert state.driven_s() == 4.0 + 1.0


def test_a_sweep_that_is_resumed_later_counts_what_its_drivers_took(plan: SweepPlan) -> None:
    state = state_after(plan, *killed(plan), driver_started(plan, LATER), driver_ended(LATER + 2))
    assert state.driven_s() == 4.0 + 2.0
    assert state.ended_ms == at(LATER + 2)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_a_sweep_that_is_extended_later_does_not_count_the_time_between(plan: SweepPlan, ended: bool) -> None:
    first = [*killed(plan), *([driver_ended(5)] if ended else [])]
    extended = SweepExtended(2, time_ms=at(LATER - 1))
    state = state_after(plan, *first, extended, driver_started(plan, LATER), driver_ended(LATER + 2))
    assert state.driven_s() == (5.0 if ended else 4.0) + 2.0


def test_a_resume_that_only_writes_the_end_adds_no_time(plan: SweepPlan) -> None:
    state = state_after(plan, *killed(plan), trial_ended(0, 4.5), driver_ended(LATER, settled=True))
    assert (state.driver_state, state.driven_s(), state.ended_ms) == ("FINISHED", 4.5, at(4.5))


def test_an_extension_that_is_stopped_before_its_driver_starts_adds_no_time(plan: SweepPlan) -> None:
    extended = SweepExtended(2, time_ms=at(LATER))
    state = state_after(plan, *killed(plan), extended, driver_ended(LATER + 1, "INTERRUPTED", settled=True))
    assert (state.driver_state, state.num_trials, state.driven_s()) == ("INTERRUPTED", 2, 4.0)


def test_a_stop_long_after_the_last_epoch_counts_up_to_the_stop(plan: SweepPlan) -> None:
    state = state_after(plan, *killed(plan), driver_ended(3600, "INTERRUPTED"))
    assert state.driven_s() == 3600.0


def test_a_trial_that_is_stopped_in_an_epoch_ran_until_its_driver_ended(plan: SweepPlan) -> None:
    first = [driver_started(plan), trial_started(0, 1)]
    stopped = [*first, driver_ended(31, "INTERRUPTED")]
    assert record_after(plan, *stopped).run_s == 30.0
    later = [driver_started(plan, LATER), trial_started(0, LATER + 1, attempt=2), epoch_reported(0, 1, LATER + 3)]
    assert record_after(plan, *later).run_s == 32.0


def test_a_trial_of_a_killed_driver_ran_as_long_as_the_driver_is_known_to_have_lived(plan: SweepPlan) -> None:
    plan = make_sweep("digits-00000002", num_trials=2)
    events = [driver_started(plan), trial_started(0, 1), trial_started(1, 2), epoch_reported(1, 1, 11)]
    assert record_after(plan, *events).run_s == 10.0
    assert record_after(plan, driver_started(plan, LATER)).run_s == 10.0, "a resume takes nothing back"


def test_a_promotion_that_decides_later_adds_no_time_to_its_runs() -> None:
    plan = make_sweep("digits-promote-00000001", kind="promote", num_trials=1)
    decided = PromotionDecided("KEEP", "not higher", (), "m", time_ms=at(LATER + 1))
    state = state_after(plan, *killed(plan), trial_ended(0, 4.5), driver_ended(LATER, settled=True), decided)
    assert (state.records[0].run_s, state.driven_s()) == (3.5, 4.5)


def test_a_driver_that_is_at_work_counts_up_to_now(plan: SweepPlan) -> None:
    state = SweepState()
    for event in killed(plan):
        state.apply(event)
    assert state.driven_s(START_MS + 10_000) == 10.0


def test_a_lost_attempt_took_its_time(plan: SweepPlan) -> None:
    lost = TrialLost(0, Cause.LOST, "its process died", time_ms=at(6))
    record = record_after(
        plan, driver_started(plan), trial_started(0, 1), lost, trial_started(0, 8, attempt=2), trial_ended(0, 9)
    )
    assert record.spans == ((at(1), at(6)), (at(8), at(9)))
