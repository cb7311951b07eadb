"""What is renamed into place was on the disk before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.sweep_folder.index import create_sweep


def test_a_plan_is_on_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        steps.append(f"rename {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    folder = create_sweep("digits-00000001", "{}")
    assert steps == ["sync .plan.json", "rename .plan.json", "sync digits-00000001", "sync sweeps"]
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
