"""Test when a running trial counts as hanging, or as having taken too long."""

from __future__ import annotations

import re
import time

import pytest

from orchestrator.sweep_folder.events import TrialEnded
from orchestrator.sweep_folder.records import TrialReport
from tests.kit.directed import begin, events, make
from training.metric_names import VAL_MAP


def test_a_trial_that_falls_silent_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make()
    director = begin(plan)
    director.next_trial()
    time.sleep(0.01)  # the journal stamps in milliseconds
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e5)
    assert not director.is_overdue(0), "it may wait for a node"
    director.report(0, TrialReport(1, {VAL_MAP: 50.0, "time/epoch_s": 60.0}))
    # The journal stamps by another clock.
    for elapsed, overdue in ((601.0, False), (1250.0, True)):
        monkeypatch.setattr(time, "time", lambda elapsed=elapsed: now + elapsed)
        assert director.is_overdue(0) is overdue
    director.lose(0, "killed")
    (event,) = events(plan, TrialEnded)
    assert event.cause == "TIMEOUT"
    assert re.fullmatch(r"reported nothing for 12\d\d s, after epochs of at most 60 s", event.message or "")


def test_a_trial_that_never_reports_times_out_once_its_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(concurrency=2, scheduler="none")
    director = begin(plan)
    director.next_trial()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e5)
    director.note_work(0)
    for elapsed, overdue in ((5.9 * 3600, False), (6.1 * 3600, True)):
        monkeypatch.setattr(time, "time", lambda elapsed=elapsed: now + 1e5 + elapsed)
        director.note_work(0)  # said again and again
        assert director.is_overdue(0) is overdue

    monkeypatch.setattr(time, "time", lambda: now)
    director.next_trial()
    assert director.report(1, TrialReport(0)), "there, nothing more"
    director.report(0, TrialReport(1, {VAL_MAP: 50.0, "time/epoch_s": 200.0}))
    for elapsed, overdue in ((3990.0, False), (4010.0, True)):
        monkeypatch.setattr(time, "time", lambda elapsed=elapsed: now + elapsed)
        assert director.is_overdue(1) is overdue, "as long as the epochs of the others tell"
    director.lose(1, "killed")
    assert events(plan, TrialEnded)[-1].message == "reported nothing for 4010 s, after epochs of at most 200 s"


def test_a_trial_that_only_says_its_checkpoints_epoch_again_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make()
    director = begin(plan)
    director.next_trial()
    known = TrialReport(1, {VAL_MAP: 50.0, "time/epoch_s": 60.0})
    director.report(0, known)
    director.lose(0, "worker died")
    director.next_trial()
    assert director.report(0, known)
    now = time.time()
    for elapsed, overdue in ((3590.0, False), (3610.0, True)):
        monkeypatch.setattr(time, "time", lambda elapsed=elapsed: now + elapsed)
        assert director.is_overdue(0) is overdue


def test_what_a_sleeping_driver_did_not_hear_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    director = begin(make(time_limit_s=7200.0))
    director.next_trial()
    time.sleep(0.01)  # the journal stamps in milliseconds
    director.report(0, TrialReport(1, {VAL_MAP: 50.0, "time/epoch_s": 60.0}))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e5)
    assert director.is_overdue(0)
    director.note_absence(1e5 - 100)
    assert not director.is_overdue(0)
    monkeypatch.setattr(time, "time", lambda: now + 1e5 + 1050)
    assert not director.is_overdue(0)
    monkeypatch.setattr(time, "time", lambda: now + 1e5 + 1150)
    assert director.is_overdue(0), "1250 s awake"


def test_time_at_work_is_that_of_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    director = begin(make())
    director.next_trial()
    director.note_work(0)
    director.lose(0, "worker died")
    director.next_trial()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert not director.is_overdue(0), "its new process is not there yet"


def test_an_overdue_trial_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(time_limit_s=60.0)
    director = begin(plan)
    director.next_trial()
    assert not director.is_overdue(0)
    director.note_work(0)
    director.report(0, TrialReport(1, {VAL_MAP: 50.0}))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert director.is_overdue(0)
    director.lose(0, "killed")
    (event,) = events(plan, TrialEnded)
    assert (event.cause, event.message) == ("TIMEOUT", "took longer than 60 s")


def test_the_wait_for_a_process_does_not_count_towards_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    director = begin(make(time_limit_s=60.0))
    director.next_trial()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert not director.is_overdue(0)
    director.note_work(0)
    monkeypatch.setattr(time, "time", lambda: now + 150)
    assert not director.is_overdue(0)
    director.report(0, TrialReport(1, {VAL_MAP: 50.0}, queue_s=100.0))
    for elapsed, overdue in ((159, False), (161, True)):
        monkeypatch.setattr(time, "time", lambda elapsed=elapsed: now + elapsed)
        assert director.is_overdue(0) is overdue
