"""What a home has lost comes back from what is left: the journal from MLflow or a backup, the plan from the journal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.backup import JournalBackup
from orchestrator.sweep_folder.events import EpochReported, SweepPlanned
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, JournalError, follow, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import leaderboard
from orchestrator.sweep_folder.restore import restore_sweep
from orchestrator.tracking.reading import read_sweep
from orchestrator.tracking.rebuild import rebuild_journal
from orchestrator.tracking.tracker import sync
from tests.kit.damaged_sweep import RAY, without_ray
from tests.kit.program import run
from tests.kit.sweeps import journal_path, make_sweep, whole_sweep, write_events

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(home: Path, empty_store: Path) -> SweepPlan:
    """A sweep of four trials, three of which have ended, and one still to come; MLflow has it all."""
    shutil.copy(empty_store, home / "mlflow.db")
    plan = make_sweep(num_trials=5)
    write_events(plan, [SweepPlanned(json.loads(plan.to_json())), *whole_sweep(plan)[:-3]])
    assert sync(plan.id)
    return plan


def board(plan: SweepPlan) -> list[tuple[object, ...]]:
    """Return what a leaderboard says of each trial, without times."""
    rows = leaderboard(replay(journal_path(plan)).records.values(), plan.protocol)
    return [tuple(row[key] for key in row if key != "run_s") for row in rows]


def metrics(plan: SweepPlan) -> dict[int, dict[int, dict[str, float]]]:
    records = replay(journal_path(plan)).records
    return {trial: {epoch: dict(found) for epoch, found in record.metrics.items()} for trial, record in records.items()}


@pytest.mark.parametrize("loss", ["gone", "empty", "cut", "damaged"])
def test_mlflow_has_every_epoch_of_a_lost_journal(
    plan: SweepPlan, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before, known = journal_path(plan), board(plan), metrics(plan)
    lines = path.read_bytes().splitlines(keepends=True)
    left = {"gone": None, "empty": [], "cut": lines[:7], "damaged": [*lines[:5], lines[5][:20] + b"\n", *lines[6:]]}[
        loss
    ]
    path.unlink() if left is None else path.write_bytes(b"".join(left))
    if loss != "cut":
        for words in (("status",), ("leaderboard",), ("resume",), ("promote",), ("extend", "--trials", "+1")):
            code, _, err = run(capsys, words[0], plan.id, *words[1:])
            assert code == 1, err
            assert str(path) in err
            assert f"orchestrator resume {plan.id} --from mlflow" in err
    with without_ray():
        code, _, err = run(capsys, "resume", plan.id, "--from", "mlflow")
    assert (code, RAY in err) == (1, True), err
    assert "rebuilt the journal" in err
    assert (board(plan), metrics(plan)) == (before, known)
    # What the lines say before the first broken one is kept as it was, and so is the damaged file.
    if left is not None:
        assert path.read_bytes().startswith(b"".join(left[:5]))
        (kept,) = path.parent.glob("journal.jsonl.damaged-*")
        assert kept.read_bytes() == b"".join(left)
    assert replay(path).plan == json.loads(plan.to_json())
    with pytest.raises(UserError, match="has its whole journal"):
        rebuild_journal(plan.id)
    # MLflow goes on with the runs that it has.
    assert sync(plan.id)
    assert sum(isinstance(event, EpochReported) for event in follow(path)[0]) == sum(map(len, known.values()))


def test_what_mlflow_cannot_give_back_is_refused(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    journal_path(plan).unlink()
    edited = plan.to_json().replace('"num_trials": 5', '"num_trials": 6')
    (sweep_dir(plan.id) / "plan.json").write_text(edited)
    with pytest.raises(OrchestratorError, match="num_trials was 5 and is 6. Undo that first"):
        rebuild_journal(plan.id)
    (sweep_dir(plan.id) / "plan.json").write_text(plan.to_json())
    (home / "mlflow.db").unlink()
    with pytest.raises(OrchestratorError, match="has no trials of digits-00000001 either"):
        rebuild_journal(plan.id)
    promotion = make_sweep("digits-promote-00000002", kind="promote", parent=plan.id)
    with pytest.raises(OrchestratorError, match="promote again: `orchestrator promote digits-00000001`"):
        rebuild_journal(promotion.id)


def test_a_backup_gives_back_a_journal_and_a_plan_in_their_own_folder(plan: SweepPlan, tmp_path: Path) -> None:
    backup, path = str(tmp_path / "backup"), journal_path(plan)
    with Lease(path.parent) as lease, Journal.open(path, lease) as journal:
        copier = JournalBackup(plan, journal, lease, backup)
        copier.start()
        assert copier.stop(), copier.problem
    whole = path.read_bytes()
    with pytest.raises(UserError, match="is already in this home"):
        restore_sweep(backup)
    checkpoint = path.parent / "checkpoints" / "t0003" / "last-0001.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    lines = whole.splitlines(keepends=True)
    for left in (b"", b"".join(lines[:6]), b"".join([*lines[:5], *lines[6:]])):
        path.write_bytes(left)
        (path.parent / "plan.json").write_text("{")
        assert restore_sweep(backup, plan.id)[0] == plan.id
        assert path.read_bytes() == whole
        assert read_sweep(plan.id)[0] == plan
        assert checkpoint.exists()
    # What was written after the last copy is kept.
    longer = whole + b'{"event":"of_a_later_version","time_ms":1}\n'
    path.write_bytes(longer + b"{}\n{}\n")
    restore_sweep(backup, plan.id)
    assert path.read_bytes() == longer


def test_a_plan_edited_by_hand_is_refused_until_it_is_as_it_was(
    plan: SweepPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_dir(plan.id) / "plan.json"
    path.write_text(plan.to_json().replace('"loop.epochs": 3', '"loop.epochs": 9'))
    for words in (("status",), ("leaderboard",), ("resume",), ("extend", "--trials", "+1"), ("bundle",), ("promote",)):
        code, _, err = run(capsys, words[0], plan.id, *words[1:])
        assert code == 1
        assert f"{path} is not the plan that {plan.id} began with: loop.epochs was 3 and is 9." in err
    code, out, err = run(capsys, "status", "--all")
    assert (code, "BROKEN" in out, str(path) in err) == (1, True, True)
    path.unlink()
    code, out, err = run(capsys, "status", "--all")
    assert (code, "BROKEN" in out, str(path) in err) == (1, True, True)
    with without_ray():
        code, _, err = run(capsys, "resume", plan.id)
    assert (code, RAY in err) == (1, True), err
    assert f"{path} was missing or damaged; it was written again from the journal." in err
    assert path.read_text() == plan.to_json()


def test_a_journal_is_not_missed_where_none_began(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep("never-00000003")
    code, out, _ = run(capsys, "status", plan.id)
    assert (code, "NOT STARTED" in out) == (0, True)
    with without_ray():
        assert RAY in run(capsys, "resume", plan.id)[2]
    (sweep_dir(plan.id) / JOURNAL_FILE).unlink()
    (sweep_dir(plan.id) / "checkpoints" / "t0000").mkdir(parents=True)
    with pytest.raises(JournalError, match="is missing: never-00000003 has left checkpoints of 1 trial"):
        read_sweep(plan.id)
