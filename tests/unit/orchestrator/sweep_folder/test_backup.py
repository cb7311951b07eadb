"""Test the backup: its segments, two drivers at once, and what a kill or an outage leaves behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder import backup as journal_copy
from orchestrator.sweep_folder.backup import HOLDER_FILE, JournalBackup, list_segments
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, follow
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.restore import restore_sweep
from tests.kit.s3 import BUCKET, S3Server, serve_s3
from tests.kit.sweeps import (
    driver_started,
    epoch_reported,
    make_sweep,
    trial_ended,
    trial_started,
    whole_sweep,
    write_events,
)
from training.data.store.storage import Storage

ROOT = Path(__file__).parents[4]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with serve_s3() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def copy(plan: SweepPlan, uri: str | Path, *, steal: bool = False) -> None:
    """Copy a journal as it is."""
    folder = sweep_dir(plan.id)
    with Lease(folder, steal=steal) as lease, Journal.open(folder / JOURNAL_FILE, lease) as journal:
        copier = JournalBackup(plan, journal, lease, str(uri), steal=steal)
        copier.start()
        assert copier.stop(), copier.problem


def segments(backup: Path, plan: SweepPlan) -> list[Path]:
    return sorted((backup / plan.id).glob("segment-*"))


def move_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Act as another machine, with an empty home."""
    home = tmp_path / "elsewhere"
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(home))
    return home


def test_an_empty_home_has_the_sweep_back_line_by_line(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4)
    events = whole_sweep(plan)
    write_events(plan, events[:7])
    copy(plan, backup)
    write_events(plan, events[7:])
    copy(plan, backup)
    original = (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes()
    assert len(segments(backup, plan)) == 2
    assert (backup / plan.id / "space.yaml").read_text() == plan.space_text
    move_home(monkeypatch, tmp_path)
    assert restore_sweep(str(backup)) == (plan.id, str(backup))
    assert (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes() == original
    assert load_plan(plan.id) == plan
    with pytest.raises(UserError, match="is already in this home"):
        restore_sweep(str(backup / plan.id))


def test_the_latest_or_the_named_sweep_is_taken(backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, name in enumerate(("older", "newer")):
        plan = make_sweep(f"{name}-0000000{number}", created=float(number))
        write_events(plan, whole_sweep(plan)[:3])
        copy(plan, backup)
    (backup / "checkpoints" / "t0000").mkdir(parents=True)  # nobody's backup
    move_home(monkeypatch, tmp_path)
    assert restore_sweep(str(backup))[0] == "newer-00000001"
    assert restore_sweep(str(backup), "older")[0] == "older-00000000"
    with pytest.raises(UserError, match="No backup of other at .* Found there: checkpoints, newer-00000001"):
        restore_sweep(str(backup), "other")


def test_time_out_of_the_storage_itself_is_quoted(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: JournalBackup) -> Storage:
        raise TimeoutError("the bucket took too long")

    monkeypatch.setattr(JournalBackup, "_connect", connect)
    plan = make_sweep(num_trials=4)
    folder = sweep_dir(plan.id)
    with Lease(folder) as lease, Journal.open(folder / JOURNAL_FILE, lease) as journal:
        copier = JournalBackup(plan, journal, lease, str(backup))
        copier.start()
        assert "the bucket took too long" in str(copier.problem)
        copier.stop(0.1)


def test_it_goes_to_object_storage_as_well(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    copy(plan, f"s3://{BUCKET}/backups")
    original = (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes()
    move_home(monkeypatch, tmp_path)
    restore_sweep(f"s3://{BUCKET}/backups/{plan.id}")
    assert (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes() == original


def test_what_comes_while_it_is_behind_goes_in_one_segment(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    monkeypatch.setattr(journal_copy, "_MAX_BYTES", 1000)
    copy(plan, backup)
    size = (sweep_dir(plan.id) / JOURNAL_FILE).stat().st_size
    assert 3 < len(segments(backup, plan)) <= size // 500
    for segment in segments(backup, plan):
        assert segment.read_bytes().endswith(b"\n")


def test_a_backup_that_is_away_is_waited_for_and_loses_nothing(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal_copy, "_RETRY_S", 0.05)
    plan = make_sweep(num_trials=4)
    folder = sweep_dir(plan.id)
    with Lease(folder) as lease, Journal.open(folder / JOURNAL_FILE, lease) as journal:
        journal.append(driver_started(plan))
        copier = JournalBackup(plan, journal, lease, f"s3://{BUCKET}/m")
        with copier:
            wait_until(lambda: any("segment" in key for key in server.objects))
            server.refuse = "segment"
            journal.append(trial_started(0, 1))
            wait_until(lambda: copier.problem is not None)
            assert "AccessDenied" in str(copier.problem) or "ACCESS_DENIED" in str(copier.problem)
            for epoch in (1, 2, 3):
                journal.append(epoch_reported(0, epoch, epoch))
            server.refuse = None
            wait_until(lambda: copier.problem is None)
            journal.append(trial_ended(0, 4))
    original = (folder / JOURNAL_FILE).read_bytes()
    move_home(monkeypatch, tmp_path)
    restore_sweep(f"s3://{BUCKET}/m")
    assert (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes() == original


def test_a_living_driver_elsewhere_keeps_it_for_a_minute_or_until_it_is_stolen(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    copy(plan, backup)
    holder = {"host": "elsewhere", "pid": 7, "pid_started": 0.0, "renewed": time.time() - 20}
    (backup / plan.id / HOLDER_FILE).write_text(json.dumps(holder))
    with pytest.raises(UserError, match="is being written by process 7 on elsewhere"):
        copy(plan, backup)
    move_home(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="dead for 60 s.*--steal-lease"):
        restore_sweep(str(backup))
    assert not sweep_dir(plan.id).exists()
    restore_sweep(str(backup), steal_lease=True)
    shutil.rmtree(sweep_dir(plan.id))
    (backup / plan.id / HOLDER_FILE).write_text(json.dumps(holder | {"renewed": time.time() - 61}))
    restore_sweep(str(backup))


def test_a_driver_whose_sweep_went_on_elsewhere_writes_nothing_more(
    backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_copy, "RENEW_S", 0.05)
    plan = make_sweep(num_trials=4)
    folder = sweep_dir(plan.id)
    with Lease(folder) as lease, Journal.open(folder / JOURNAL_FILE, lease) as journal:
        journal.append(driver_started(plan))
        with JournalBackup(plan, journal, lease, str(backup)) as copier:
            wait_until(lambda: bool(segments(backup, plan)))
            other = {"host": "elsewhere", "pid": 7, "pid_started": 0.0, "renewed": time.time()}
            # Again and again: a renewal may be under way between the look and the write.
            wait_until(lambda: take(backup / plan.id, other) and copier.problem)
            assert "process 7 on elsewhere" in str(copier.problem)
            with pytest.raises(OrchestratorError, match="started from the backup, has taken it"):
                journal.append(trial_started(0, 1))
    assert json.loads((backup / plan.id / HOLDER_FILE).read_text())["pid"] == 7


def test_a_home_that_was_left_behind_does_not_go_on(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4)
    events = whole_sweep(plan)
    write_events(plan, events[:5])
    copy(plan, backup)
    home = os.environ["ORCHESTRATOR_HOME"]
    move_home(monkeypatch, tmp_path)
    restore_sweep(str(backup))
    write_events(plan, events[5:])
    copy(plan, backup)
    monkeypatch.setenv("ORCHESTRATOR_HOME", home)
    with pytest.raises(UserError, match=r"Another driver has continued .* from its backup.*resume --from"):
        copy(plan, backup)


def test_a_segment_that_is_missing_doubled_or_changed_is_said(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4)
    events = whole_sweep(plan)
    for start in (0, 5, 10):
        write_events(plan, events[start : start + 5])
        copy(plan, backup)
    first, second, third = segments(backup, plan)
    move_home(monkeypatch, tmp_path)
    storage = Storage(str(backup / plan.id))
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(OrchestratorError, match=r"but has 1, 3 \(2 in all\)"):
        list_segments(storage)
    second.write_bytes(content[:-1] + b"!")
    with pytest.raises(OrchestratorError, match=f"{second.name} in .* does not match"):
        restore_sweep(str(backup))
    second.write_bytes(content)
    # Cut short at the end, as a storage without atomic writes may leave it: it was never there.
    third.write_bytes(third.read_bytes()[:-10])
    restore_sweep(str(backup))
    assert len(follow(sweep_dir(plan.id) / JOURNAL_FILE)[0]) == 10
    first.with_name(first.name.replace("segment-000001", "segment-000002")).write_bytes(first.read_bytes())
    with pytest.raises(OrchestratorError, match="each segment of the journal exactly once"):
        list_segments(storage)


def test_a_backed_up_plan_cannot_name_a_folder_elsewhere(backup: Path) -> None:
    plan = make_sweep()
    folder = backup / "x"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json().replace(plan.id, "../../escaped"))
    with pytest.raises(OrchestratorError, match=r"id must be 1 to 100 letters.*escaped"):
        restore_sweep(str(backup))
    (folder / "plan.json").write_text(plan.to_json())
    with pytest.raises(OrchestratorError, match="its folder must have that name"):
        restore_sweep(str(backup))


def test_trials_without_their_checkpoints_are_told_to_begin_anew(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = tmp_path / "checkpoints"
    plan = make_sweep(num_trials=4, storage=str(storage))
    write_events(
        plan,
        [
            driver_started(plan),
            *(event for trial in (0, 1) for event in (trial_started(trial, 1), epoch_reported(trial, 1, 2))),
        ],
    )
    copy(plan, backup)
    (storage / plan.id / "t0001").mkdir(parents=True)
    move_home(monkeypatch, tmp_path)
    said: list[str] = []
    restore_sweep(str(backup), say=said.append)
    assert len(said) == 1
    assert "1 trial (0)" in said[0]


def test_a_storage_out_of_reach_is_refused_before_anything_is_made(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4, storage="nowhere://x")
    write_events(plan, [driver_started(plan), trial_started(0, 1), epoch_reported(0, 1, 2)])
    copy(plan, backup)
    move_home(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="Cannot reach the checkpoints from this machine: nowhere://x"):
        restore_sweep(str(backup))
    assert not sweep_dir(plan.id).exists()


WRITE = """
import sys
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
from orchestrator.sweep_folder.backup import JournalBackup
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.index import load_plan
from tests.kit.sweeps import epoch_reported
plan = load_plan(sys.argv[1]); folder = sweep_dir(plan.id)
with (
    Lease(folder) as lease,
    Journal.open(folder / JOURNAL_FILE, lease) as journal,
    JournalBackup(plan, journal, lease, sys.argv[2]),
):
    for epoch in range(1 + max(journal.state.records[0].metrics, default=0), 10**6):
        journal.append(epoch_reported(0, epoch, epoch, host="x" * 20_000))
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_copy_leaves_whole_segments(
    backup: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, [driver_started(plan), trial_started(0, 1)])
    home, dice = os.environ["ORCHESTRATOR_HOME"], random.Random(0)
    for round_number in range(4):
        monkeypatch.setenv("ORCHESTRATOR_HOME", home)
        before = len(segments(backup, plan))
        driver = subprocess.Popen([sys.executable, "-c", WRITE, plan.id, str(backup)], cwd=ROOT)
        wait_for_segments(backup, plan, before + 3)
        time.sleep(dice.random() / 10)
        driver.kill()
        driver.wait()
        journal = (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes()
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / f"home{round_number}"))
        restore_sweep(str(backup))
        copied = (sweep_dir(plan.id) / JOURNAL_FILE).read_bytes()
        assert copied
        assert journal.startswith(copied)
        assert copied.endswith(b"\n")
    assert not [
        path for path in (backup / plan.id).iterdir() if path.name.endswith(".jsonl") and path.stat().st_size == 0
    ]


def take(folder: Path, holder: dict[str, object]) -> bool:
    """Take over the backup as a driver does, completely or not at all."""
    Storage(str(folder)).put(HOLDER_FILE, json.dumps(holder).encode())
    return True


def wait_for_segments(backup: Path, plan: SweepPlan, count: int) -> None:
    """Wait until there are this many."""
    wait_until(lambda: len(segments(backup, plan)) >= count)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
