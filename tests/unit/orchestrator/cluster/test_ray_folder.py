"""Folders of local Rays: only their user can enter them, and those of dead drivers are removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.cluster import ray_folder
from orchestrator.cluster.ray_folder import RayFolder, remove_dead_folders
from orchestrator.writable import _MAX_BASE


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    monkeypatch.setattr(ray_folder, "ray_base_dir", lambda: tmp_path)
    return tmp_path


def test_only_its_user_can_enter_it_and_its_name_is_short_enough_for_sockets() -> None:
    folder = RayFolder()
    assert folder.path.parent.stat().st_mode & 0o777 == 0o700
    session = "session_2026-11-30_04-14-36_551692_4194304"
    assert len(f"{'x' * _MAX_BASE}/{folder.path.parent.name}/r/{session}/sockets/plasma_store") <= 107
    folder.remove()
    assert not folder.path.parent.exists()


def test_folders_of_dead_drivers_are_removed_and_those_of_living_ones_stay(base: Path) -> None:
    living, dead = RayFolder(), RayFolder()
    os.close(dead._lock)  # as the system does when a process ends
    for folder in (living, dead):
        (folder.path / "session").mkdir(parents=True)
    elsewhere = base / "photos"
    elsewhere.mkdir()
    (base / "spml-link").symlink_to(elsewhere)
    remove_dead_folders()
    assert set(base.glob("spml-*")) == {living.path.parent, base / "spml-link"}
    assert elsewhere.is_dir()
    living.remove()


def test_folders_of_other_users_stay(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "spml-12345678").mkdir()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    remove_dead_folders()
    assert (base / "spml-12345678").is_dir()
