"""Test the tracking thread: what it does when the store fails, and how long it makes others wait."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking import connection
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.tracker import Tracker
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore


class Flaky(FakeStore):
    """A store that is unavailable for its first calls."""

    def __init__(self, num_failures: float) -> None:
        super().__init__()
        self.num_failures = num_failures

    def check(self) -> None:
        """Raise as often as asked."""
        if self.num_failures > 0:
            self.num_failures -= 1
            raise ConnectionError("https://user:secret@host is away\nand more")


@pytest.fixture
def plan(home: Path, monkeypatch: pytest.MonkeyPatch) -> SweepPlan:
    monkeypatch.setattr(tracking, "_POLL_S", 0.01)
    monkeypatch.setattr(tracking, "_LAST_TRY_S", 0.1)
    plan = sweeps.make_sweep()
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    return plan


def _tracker(plan: SweepPlan, store: Any, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(tracking, "MlflowStore", lambda experiment, known: store)
    return Tracker(plan, sweeps.journal_path(plan))


def test_all_is_written_when_it_is_stopped(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Flaky(0)
    tracker = _tracker(plan, store, monkeypatch)
    tracker.start()
    assert tracker.stop()
    assert store.epochs(3) == [1, 2, 3]
    assert tracker.cpu_s > 0


def test_store_that_comes_back_gets_all(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Flaky(4)
    tracker = _tracker(plan, store, monkeypatch)
    tracker.start()
    assert tracker.stop(5)
    assert tracker.problem is None
    assert store.epochs(0) == [1, 2, 3]


def test_store_that_stays_away_is_given_up_and_named_without_its_password(
    plan: SweepPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = _tracker(plan, Flaky(float("inf")), monkeypatch)
    tracker.start()
    assert not tracker.stop(0.2)
    assert tracker.problem == "ConnectionError: https://user:***@host is away"


def test_long_outage_is_not_waited_for_once_more(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(experiment: str, known: bool) -> FakeStore:
        raise ConnectionError

    monkeypatch.setattr(tracking, "MlflowStore", unreachable)
    tracker = Tracker(plan, sweeps.journal_path(plan))
    tracker._away_since = time.monotonic() - 3600
    tracker.start()
    assert not tracker.stop(3600), "or the time limit of tests ends it"


def test_one_writer_at_a_time(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Flaky(0)
    with (sweeps.journal_path(plan).parent / "tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tracker = _tracker(plan, store, monkeypatch)
        tracker.start()
        assert not tracker.stop(0.2)
        assert tracker.problem == f"another process is writing {plan.id} to MLflow"
        assert not store.runs


def test_broken_journal_is_a_problem_of_tracking_only(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with sweeps.journal_path(plan).open("a") as journal:
        journal.write("not JSON\n{}\n{}\n")
    tracker = _tracker(plan, Flaky(0), monkeypatch)
    tracker.start()
    assert not tracker.stop(0.2)
    assert "a broken line in a journal" in str(tracker.problem)


def test_store_is_sqlite_in_the_home_unless_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.tracking_uri() == f"sqlite:///{home}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_HOME", str(home / "why?"))
        with pytest.raises(UserError, match="must not contain"):
            connection.tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert connection.tracking_uri() == "http://127.0.0.1:5000"


def test_without_retries_a_failure_is_an_error_at_once(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(experiment: str, known: bool) -> FakeStore:
        raise ConnectionError("gone")

    monkeypatch.setattr(tracking, "MlflowStore", unreachable)
    with pytest.raises(OrchestratorError, match="cannot be written to MLflow: ConnectionError: gone"):
        tracking.sync(plan.id, 1800, retry=False)
