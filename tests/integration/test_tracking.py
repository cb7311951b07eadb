"""Test tracking against a real sqlite MLflow: kills, outages, and two processes that create the schema at once."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking import store as mlflow_store
from orchestrator.tracking import tracker as tracking
from tests.kit import sweeps

pytestmark = pytest.mark.slow

# Follows the journal of the sweep in argv as a driver's thread does, until told on stdin to stop.
FOLLOW = """
import sys
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.index import load_plan
from orchestrator.tracking.tracker import Tracker
tracker = Tracker(load_plan(sys.argv[1]), sweep_dir(sys.argv[1]) / "journal.jsonl")
tracker.start()
sys.stdin.readline()
sys.exit(0 if tracker.stop(60) else 1)
"""


@pytest.fixture
def store(home: Path, empty_store: Path) -> Path:
    return Path(shutil.copy(empty_store, home / "mlflow.db"))


@pytest.fixture
def plan(store: Path) -> SweepPlan:
    return sweeps.make_sweep()


def _follow(plan: SweepPlan) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", FOLLOW, plan.id], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _query(store: Path, text: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(store)
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def _num_rows(store: Path) -> int:
    return sum(
        int(_query(store, f"SELECT count(*) FROM {table}")[0][0]) for table in ("runs", "params", "metrics", "tags")
    )


def _epochs(store: Path) -> dict[str, list[int]]:
    rows = _query(
        store,
        "SELECT r.name, m.step FROM metrics m JOIN runs r USING (run_uuid) WHERE m.key = 'val/mAP' ORDER BY m.step",
    )
    epochs: dict[str, list[int]] = {}
    for name, step in rows:
        epochs.setdefault(str(name).split()[0], []).append(int(str(step)))
    return epochs


def _assert_whole(store: Path) -> None:
    """The store has what :func:`tests.kit.sweeps.whole_sweep` says, each (trial, epoch, metric) once."""
    assert _epochs(store) == {"t0000": [1, 2, 3], "t0001": [1], "t0003": [1, 2, 3]}
    assert (
        _query(store, "SELECT run_uuid, key, step FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1") == []
    )
    # A run's name has its trial's settings after the number.
    statuses = {name.split()[0]: status for name, status in _query(store, "SELECT name, status FROM runs")}
    assert statuses == {
        "digits-00000001": "FINISHED",
        "t0000": "FINISHED",
        "t0001": "KILLED",
        "t0002": "FAILED",
        "t0003": "FINISHED",
    }
    assert _query(store, "SELECT count(*) FROM runs") == [(5,)]


def _wait_for(condition: Callable[[], object], seconds: float) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "timed out"
        time.sleep(0.05)


def test_an_epoch_is_in_the_store_while_the_sweep_runs(plan: SweepPlan, store: Path) -> None:
    events = sweeps.whole_sweep(plan)
    sweeps.write_events(plan, events[:2])
    tracker = tracking.Tracker(plan, sweeps.journal_path(plan))
    tracker.start()
    _wait_for(lambda: _query(store, "SELECT 1 FROM runs WHERE name LIKE 't0000%'"), 240)
    for event in events[2:5]:
        sweeps.write_events(plan, [event])
    _wait_for(lambda: _epochs(store).get("t0001") == [1], 240)
    sweeps.write_events(plan, events[5:])
    assert tracker.stop()
    _assert_whole(store)


def test_killed_at_any_moment_nothing_is_lost_or_doubled(plan: SweepPlan, store: Path) -> None:
    events = sweeps.whole_sweep(plan)
    sweeps.write_events(plan, events[:10])
    before = _num_rows(store)
    follower = _follow(plan)
    _wait_for(lambda: _num_rows(store) > before, 240)
    time.sleep(random.random() * 0.05)
    follower.kill()
    follower.communicate()
    sweeps.write_events(plan, events[10:])
    follower = _follow(plan)
    assert follower.communicate("\n", timeout=240) == ("", "")
    assert follower.returncode == 0
    _assert_whole(store)


def test_nothing_is_written_to_the_terminal_while_two_make_the_schema(home: Path) -> None:
    first, second = sweeps.make_sweep(), sweeps.make_sweep("digits-00000002")
    followers = []
    for plan in (first, second):
        sweeps.write_events(plan, sweeps.whole_sweep(plan))
        followers.append(_follow(plan))
    outputs = [follower.communicate("\n", timeout=240) for follower in followers]
    assert outputs == [("", ""), ("", "")]
    assert [follower.returncode for follower in followers] == [0, 0]
    store = home / "mlflow.db"
    assert _query(store, "SELECT count(*) FROM runs") == [(10,)]
    assert _query(store, "SELECT count(*) FROM experiments WHERE name = 'digits'") == [(1,)]
    assert _query(store, "SELECT count(*) FROM metrics WHERE key = 'val/mAP'") == [(14,)]
    assert {path.name for path in home.iterdir()} == {"mlflow.db", "mlflow.db.lock", "artifacts", "sweeps"}


def test_what_was_missed_while_the_store_was_away_is_written_when_it_is_back(plan: SweepPlan, store: Path) -> None:
    events = sweeps.whole_sweep(plan)
    sweeps.write_events(plan, events[:4])
    tracker = tracking.Tracker(plan, sweeps.journal_path(plan))
    tracker.start()
    _wait_for(lambda: "t0000" in _epochs(store), 240)
    elsewhere = store.rename(store.with_suffix(".away"))
    sweeps.write_events(plan, events[4:])
    _wait_for(lambda: tracker.problem is not None, 240)
    # A copy, as from a backup: another file than the one that connections were open to.
    shutil.copy(elsewhere, store)
    assert tracker.stop()
    assert tracker.problem is None
    _assert_whole(store)


def test_store_that_stays_away_keeps_nobody_waiting_and_sync_writes_later(
    plan: SweepPlan, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    tracker = tracking.Tracker(plan, sweeps.journal_path(plan))
    tracker.start()
    assert not tracker.stop(drain_s=0.5)
    assert tracker.problem
    assert "secret" not in tracker.problem
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _wait_for(lambda: tracking.sync(plan.id), 240)
    _assert_whole(store)


def test_runs_are_found_by_their_id(plan: SweepPlan, store: Path) -> None:
    assert mlflow_store.find_sweep_run(plan) is None
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    assert tracking.sync(plan.id)
    ids = dict(_query(store, "SELECT name, run_uuid FROM runs"))
    assert mlflow_store.find_run(str(ids["t0003"])) == (plan.id, 3)
    assert mlflow_store.find_run(str(ids[plan.id])) == (plan.id, None)
    found = mlflow_store.find_sweep_run(plan)
    assert found is not None
    assert found[1] == ids[plan.id]
    with pytest.raises(UserError, match="has no run '0000"):
        mlflow_store.find_run("0" * 32)


def test_artifacts_lie_in_the_home(plan: SweepPlan, home: Path) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    spooled = sweeps.journal_path(plan).parent / "spool" / "t0003" / "cam"
    spooled.mkdir(parents=True)
    (spooled / "0.png").write_bytes(b"png")
    assert tracking.sync(plan.id)
    found = {
        path.relative_to(home / "artifacts").parts[-1] for path in (home / "artifacts").rglob("*") if path.is_file()
    }
    assert found == {"space.yaml", "plan.json", "leaderboard.json", "0.png"}
