"""Test which files of a folder count as images."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.image_files import find_images


def test_what_a_mac_adds_is_no_image(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c.JPEG", "._a.jpg", "b/._c.JPEG", "__MACOSX/a.jpg", "b/.DS_Store", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.jpg", "b/c.JPEG"]


def test_a_folder_without_images_is_described_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ("which is empty", "which holds only 1 other file"):
        with pytest.raises(ValueError, match=rf"but got DIR=\., {content}\. Images end in \.bmp"):
            find_images(Path())
        (tmp_path / "notes.txt").touch()
