"""Test reading datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kit.layouts import make_coco, make_cub, make_folder, make_l48, make_nuswide, make_voc
from training.data.sources.registry import DATASETS, read_source
from training.errors import ConfigError, NotThisDatasetError

MAKERS: dict[str, Callable[..., Path]] = {
    "voc": make_voc,
    "coco": make_coco,
    "nuswide": make_nuswide,
    "cub": make_cub,
    "l48": make_l48,
    "folder": make_folder,
}


def test_every_source_has_a_layout_to_test_it_with() -> None:
    assert set(DATASETS) == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_label_files_alone_give_the_same_labels(name: str, tmp_path: Path) -> None:
    bare = read_source(name, MAKERS[name](tmp_path / "bare", images=False), images=False)
    full = read_source(name, MAKERS[name](tmp_path / "full"), images=True)
    assert bare.faults == full.faults == ()
    assert bare.name == name
    for phase in full.phases:
        for kind in ("true", "observed"):
            labels, other = getattr(bare.phases[phase], kind), getattr(full.phases[phase], kind)
            assert np.array_equal(labels, other) if labels is not None else other is None
        assert bare.phases[phase].true is not None or bare.phases[phase].observed is not None
        assert (
            bare.phases[phase].files == full.phases[phase].files or name == "nuswide"
        )  # its images may lie next to the lists


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("other", MAKERS)
def test_another_datasets_folder_is_refused_and_recognised(name: str, other: str, tmp_path: Path) -> None:
    source = MAKERS[other](tmp_path / "downloads", images=False)
    if name == other:
        read_source(name, source, images=False)
        return
    with pytest.raises(NotThisDatasetError, match=f"It looks like {DATASETS[other].title}: use {other}") as caught:
        read_source(name, source, images=False)
    assert caught.value.key == "--source"


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisDatasetError, match="does not exist"):
        read_source(name, tmp_path / "nowhere", images=False)


@pytest.mark.parametrize(
    "name", [name for name in MAKERS if name != "voc"]
)  # VOCdevkit/VOC2012 lies too deep to be found so
def test_two_in_one_folder_are_not_guessed(name: str, tmp_path: Path) -> None:
    for part in ("first", "second"):
        MAKERS[name](tmp_path / "both" / part, images=False)
    with pytest.raises(NotThisDatasetError, match="more than once"):
        read_source(name, tmp_path / "both", images=False)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError,
        match="one of voc, coco, nuswide, cub, l48, folder, but got dataset=nus_wide. Did you mean nuswide",
    ):
        read_source("nus_wide", Path(), images=False)


def test_a_folder_may_have_another_name(tmp_path: Path) -> None:
    assert read_source("folder", make_folder(tmp_path / "own"), images=False, called="birds").name == "birds"


def test_source_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    # Injected, since tests may run as root, who may look everywhere.
    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(NotThisDatasetError, match=r"Cannot read --source=.*permission denied for "):
        read_source("voc", tmp_path, images=False)
