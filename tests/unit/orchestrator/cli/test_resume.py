from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.sweep import driver as sweep_module
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep_folder.index import load_plan
from tests.kit.program import run
from tests.kit.sweeps import make_sweep


def test_extend_raises_the_limit_adds_trials_or_both(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], finished: str
) -> None:
    assert run(capsys, "extend", finished, "--max-gpu-hours", "5")[0] == 0
    assert run(capsys, "extend", finished, "--trials", "+2", "--max-gpu-hours", "6")[0] == 0
    assert [(call["num_more"], call["max_gpu_hours"]) for call in driver] == [(0, 5), (2, 6)]
    code, _, err = run(capsys, "extend", finished)
    assert (code, "extend needs --trials, --max-gpu-hours, or both" in err) == (2, True)


def test_resume_and_extend_take_the_latest(
    capsys: pytest.CaptureFixture[str], finished: str, driver: list[dict[str, Any]]
) -> None:
    assert run(capsys, "resume", "--allow-changed")[0] == 0
    assert run(capsys, "extend", "--trials", "+5")[0] == 0
    assert [(call["plan"].id, call["allow_changed"], call.get("num_more")) for call in driver] == [
        (finished, True, None),
        (finished, False, 5),
    ]


def test_interrupted_sweep_exits_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, driver: list[dict[str, Any]]
) -> None:
    outcome = SweepOutcome(load_plan(finished), (), "INTERRUPTED", 1.0, None)
    monkeypatch.setattr(sweep_module, "resume", lambda sweep_id, options: outcome)
    code, out, err = run(capsys, "resume", "--address", "auto", "--backup", "s3://bucket/backup")
    assert code == 130
    assert "next:" not in out
    assert "interrupted" in err
    # What a resume would not know by itself is in the command that it is told to run.
    assert f"orchestrator resume {finished} --address auto --backup s3://bucket/backup" in err


def test_a_promotion_is_not_backed_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = make_sweep("promotion-00000001", kind="promote")
    code, _, err = run(capsys, "resume", plan.id, "--backup", str(tmp_path / "backup"))
    assert (code, "A promotion cannot be backed up, and promotion-00000001 is one" in err) == (
        2,
        True,
    )
    assert not (tmp_path / "backup").exists()


def test_the_former_name_of_backup_is_accepted_with_a_note(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = make_sweep("promotion-00000001", kind="promote")
    code, _, err = run(capsys, "resume", plan.id, "--mirror", str(tmp_path / "backup"))
    assert (code, "note: --mirror is deprecated. Use --backup." in err, "Leave --backup out" in err) == (2, True, True)
    code, _, err = run(capsys, "resume", plan.id, "--mirror", "/a", "--backup", "/b")
    assert (code, "Give only --backup" in err) == (2, True)
    _, out, _ = run(capsys, "resume", "--help")
    assert "--backup" in out
    assert "--mirror" not in out
