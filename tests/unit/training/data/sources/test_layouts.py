"""Test that the small folders of tests.kit.layouts are the same each time they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.layouts import make_coco, make_cub, make_folder, make_l48, make_nuswide, make_voc

MAKERS: dict[str, Callable[[Path], Path]] = {
    "voc": make_voc,
    "coco": make_coco,
    "nuswide": make_nuswide,
    "nuswide official": lambda folder: make_nuswide(folder, layout="official"),
    "cub": make_cub,
    "l48": make_l48,
    "folder": make_folder,
    "folder observed": lambda folder: make_folder(folder, observed_only=True, form="list", splits="files", num_val=3),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    first, second = (contents(MAKERS[name](tmp_path / part)) for part in ("first", "second"))
    assert first == second
    assert any(file.endswith(".jpg") for file in first)


def test_without_images_only_label_files(tmp_path: Path) -> None:
    files = contents(make_coco(tmp_path, images=False))
    assert set(files) == {"annotations/instances_train2014.json", "annotations/instances_val2014.json"}
