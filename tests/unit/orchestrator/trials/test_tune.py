from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.sweep_folder.events import TrialLost
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Cause, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT
from orchestrator.trials.deaths import MemoryKills
from orchestrator.trials.director import MAX_LOSSES, Director
from orchestrator.trials.tune import _Escape, _HandoutSearcher, _ReportScheduler
from tests.kit.sweeps import driver_started, journal_path, make_sweep, trial_started, write_events

ADDRESS = "192.0.2.7"


def test_at_the_cap_what_was_begun_goes_on_and_nothing_new_begins() -> None:
    plan = make_sweep()
    write_events(plan, [driver_started(plan), trial_started(0, 1)])
    with Journal.open(journal_path(plan)) as journal:
        director = Director(plan, journal)
        searcher = _HandoutSearcher(director, has_room=lambda: False)
        handed = searcher.suggest("a")
        assert handed is not None
        assert handed[HANDOUT].trial == 0
        assert searcher.suggest("b") is None
        director.lose(0, "gone")
        for _ in range(MAX_LOSSES - 1):
            director.lose(director.next_trial().trial, "gone")  # type: ignore[union-attr]
        with pytest.raises(_Escape) as escape:
            searcher.suggest("c")
    assert isinstance(escape.value.error, OrchestratorError)


def make_scheduler(monkeypatch: pytest.MonkeyPatch, grew: bool) -> tuple[_ReportScheduler, Director]:
    plan = make_sweep()
    write_events(plan, [driver_started(plan)])
    director = Director(plan, Journal.open(journal_path(plan)))
    monkeypatch.setattr(MemoryKills, "look", lambda self: None)
    monkeypatch.setattr(MemoryKills, "grew", lambda self, address: grew and address == ADDRESS)
    return _ReportScheduler(plan, director, lambda: False), director


@pytest.mark.parametrize("grew", [True, False])
def test_a_lost_worker_was_out_of_memory_if_its_nodes_kernel_says_so(
    grew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, director = make_scheduler(monkeypatch, grew)
    handout = director.next_trial()
    trial: Any = SimpleNamespace(config={HANDOUT: handout})
    report = TrialReport(cause=Cause.LOST, message="worker died", details=f"ip: {ADDRESS}\n")
    assert scheduler.on_trial_result(None, trial, {REPORT: report}) == "STOP"  # type: ignore[arg-type]
    assert director._journal.state.records[0].needs_all is grew
    lost = next(event for event in follow(director._journal.path)[0] if isinstance(event, TrialLost))
    assert lost.cause == ("OOM" if grew else "LOST")


def test_a_driver_that_slept_says_so_before_anybody_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, director = make_scheduler(monkeypatch, grew=False)
    absences: list[float] = []
    monkeypatch.setattr(director, "note_absence", absences.append)
    controller: Any = SimpleNamespace(get_live_trials=list)
    scheduler.choose_trial_to_run(controller)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 500)
    scheduler.choose_trial_to_run(controller)
    scheduler.choose_trial_to_run(controller)
    assert absences == [pytest.approx(500, abs=5)]
