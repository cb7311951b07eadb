"""Test that a file is on disk before it is renamed into place, and that a failed write leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from training.files import open_location, open_whole, write_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_a_file_is_on_disk_before_it_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(source: Any, target: Any) -> None:
        steps.append(f"rename {Path(source).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_whole(folder / "plan.json", "{}")
    assert steps == ["sync plan.json.partial", "rename plan.json.partial", f"sync {folder.name}"]
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    assert (folder / "plan.json").read_text() == "{}"


def test_a_write_that_fails_leaves_the_file_that_was_there(folder: Path) -> None:
    write_whole(folder / "a", b"before")

    def fail_half_way() -> None:
        with open_whole(folder / "a") as file:
            file.write(b"half")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail_half_way()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_bytes() == b"before"


def test_a_folder_and_its_uri_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (str(tmp_path / "x"), (tmp_path / "x").as_uri(), "x"):
        system, path = open_location(uri)
        assert isinstance(system, fs.LocalFileSystem)
        assert path == str(tmp_path / "x")
    with pytest.raises(ValueError, match="nowhere"):
        open_location("nowhere://x")
