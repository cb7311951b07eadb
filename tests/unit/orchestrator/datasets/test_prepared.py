from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.datasets.prepared import (
    absolute_uri,
    check_dataset,
    choose_name,
    find_store,
    list_stores,
    remember_store,
    require_room,
    require_store,
    with_store,
)
from orchestrator.errors import UserError


def make_store(home: Path, name: str) -> Path:
    folder = home / "data" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_store_lies_under_the_home(home: Path) -> None:
    assert find_store("voc") is None
    folder = make_store(home, "voc")
    assert find_store("voc") == require_store("voc") == str(folder)


def test_folder_without_a_manifest_is_listed_but_is_no_store(home: Path) -> None:
    (home / "data" / "coco").mkdir(parents=True)
    assert list_stores() == {}
    (home / "data" / "coco" / "train-00000.arrow").touch()
    assert list_stores() == {"coco": str(home / "data" / "coco")}
    assert find_store("coco") is None


def test_pointer_remembers_a_store_elsewhere_until_one_is_made_at_home(home: Path) -> None:
    remember_store("v1.5", "s3://bucket/v1.5")
    assert find_store("v1.5") == "s3://bucket/v1.5"
    assert json.loads((home / "data" / "v1.5.json").read_text()) == {"uri": "s3://bucket/v1.5"}
    assert list_stores() == {"v1.5": "s3://bucket/v1.5"}
    folder = make_store(home, "v1.5")
    remember_store("v1.5", str(folder))
    assert find_store("v1.5") == str(folder)


def test_broken_pointer_says_what_to_do(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "voc.json").write_text('{"ur')
    with pytest.raises(UserError, match="Delete it, and run `data prepare` again"):
        find_store("voc")


def test_home_that_cannot_be_written_is_told(home: Path) -> None:
    (home / "data").write_text("a file")
    with pytest.raises(UserError, match="ORCHESTRATOR_HOME"):
        remember_store("voc", "s3://bucket/voc")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("voc", "orchestrator data prepare voc --source DIR"),
        ("folder", "orchestrator data prepare folder --source DIR"),
        ("vco", "Did you mean voc?"),
        ("brids", "Did you mean birds?"),
        ("teapots", "orchestrator data prepare folder --source DIR --name teapots"),
        ("digits", "made when it is needed"),
    ],
)
def test_missing_store_is_told_with_the_way_out(home: Path, name: str, hint: str) -> None:
    make_store(home, "birds")
    with pytest.raises(UserError) as refused:
        require_store(name)
    assert hint in str(refused.value)


def test_dataset_must_be_known() -> None:
    assert check_dataset("cub") == "cub"
    with pytest.raises(UserError, match=r"Did you mean nuswide\?"):
        check_dataset("nus-wide")
    with pytest.raises(UserError, match="folder --name teapots"):
        check_dataset("teapots")


def test_only_a_folder_of_ones_own_takes_a_name() -> None:
    assert (choose_name("voc", None), choose_name("folder", None), choose_name("folder", "birds")) == (
        "voc",
        "folder",
        "birds",
    )
    for dataset, name in (("voc", "birds"), ("folder", "voc"), ("folder", "digits"), ("folder", "a/b")):
        with pytest.raises(UserError, match="name"):
            choose_name(dataset, name)


def test_settings_get_the_store_unless_they_name_one(home: Path) -> None:
    folder = make_store(home, "voc")
    assert with_store({"data.name": "voc", "data.store": None})["data.store"] == str(folder)
    assert with_store({"data.name": "voc", "data.store": "s3://b/voc"})["data.store"] == "s3://b/voc"
    assert with_store({"data.name": "coco", "data.store": None})["data.store"] is None
    assert with_store({"data.name": "digits", "data.store": None})["data.store"] is None


def test_uri_holds_wherever_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("gs://bucket/voc") == "gs://bucket/voc"
    assert absolute_uri("stores/voc") == str(tmp_path / "stores" / "voc")


def test_store_that_would_fill_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100e9, 90e9, 10e9))
    folder = tmp_path / "not" / "there" / "yet"
    with pytest.raises(
        UserError, match=r"room for about 73.6 GB, but .*yet has 10.0 GB. --encoding jpeg takes a seventh"
    ):
        require_room(str(folder), 122_218, 448, "raw")
    with pytest.raises(
        UserError, match=r"room for about 11.0 GB, but .* has 10.0 GB. Make room, or name another place with --out"
    ):
        require_room(str(folder), 122_218, 448, "jpeg")
    require_room(str(folder), 16_000, 448, "raw")
    require_room("s3://bucket/coco", 122_218, 448, "raw")


def test_what_lies_there_already_needs_no_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(UserError, match="room"):
        require_room(str(tmp_path), 10, 8, "raw")
    (tmp_path / "train-00000.arrow").write_bytes(bytes(1000))
    require_room(str(tmp_path), 10, 8, "raw")
