from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.datasets.prepared import (
    check_dataset,
    choose_name,
    find_store,
    list_stores,
    locate_store,
    remember_store,
    require_place,
    require_room,
    require_store,
    with_store,
)
from orchestrator.errors import UserError
from orchestrator.planning.data_fit import locate_data
from tests.kit.sweeps import make_sweep


def make_store(home: Path, name: str) -> Path:
    folder = home / "data" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "data_hash": "ab"}))
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
    assert not (home / "data" / "v1.5.json").exists()


def test_a_home_that_was_moved_finds_its_stores(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = str(make_store(home, "voc"))
    inside = home / "big" / "cub"
    inside.mkdir(parents=True)
    (inside / "manifest.json").write_text(json.dumps({"schema_version": 1, "data_hash": "ab"}))
    remember_store("cub", str(inside))
    remember_store("coco", "/nowhere/coco")
    plans = {
        name: make_sweep(f"{name}-00000001", dataset=name, base={"data.store": store})
        for name, store in (("voc", old), ("cub", str(inside)))
    }
    assert all(locate_data(plan) == plan for plan in plans.values())
    moved = tmp_path / "moved home"
    home.rename(moved)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(moved))
    assert locate_data(plans["voc"]).base["data.store"] == find_store("voc") == str(moved / "data" / "voc")
    assert locate_data(plans["cub"]).base["data.store"] == find_store("cub") == str(moved / "big" / "cub")
    # A store outside the home that was moved into it afterwards; until then its old place is told.
    assert locate_store("coco", "/elsewhere/coco") == "/nowhere/coco"
    make_store(moved, "coco")
    assert find_store("coco") == list_stores()["coco"] == str(moved / "data" / "coco")
    assert locate_store("coco", "s3://bucket/coco") == "s3://bucket/coco"
    assert locate_store("nuswide", "/elsewhere/nuswide") == "/elsewhere/nuswide"


FOREIGN_JSON = [
    "",
    '{"ur',
    "[]",
    "null",
    "3",
    "{}",
    '{"uri": 3}',
    '{"url": "s3://bucket"}',
    '{"uri": "s3://bucket", "title": "a link"}',
    "[" * 100_000,
    "\xe9",
]


@pytest.mark.parametrize("text", FOREIGN_JSON)
def test_json_of_somebody_else_is_no_pointer_and_stays_as_it_is(home: Path, text: str) -> None:
    make_store(home, "cub")
    path = home / "data" / "voc.json"
    path.write_bytes(text.encode("latin-1"))
    assert (find_store("voc"), list_stores()) == (None, {"cub": str(home / "data" / "cub")})
    with pytest.raises(UserError, match=r"voc.json: not a store, ignored\). Prepare it: .*prepare voc") as told:
        require_store("voc")
    assert "elete" not in str(told.value)
    with pytest.raises(UserError, match=r"voc\.json belongs to another program.*Drop --out"):
        remember_store("voc", "s3://bucket/voc")
    remember_store("voc", str(make_store(home, "voc")))  # needs no pointer
    assert path.read_bytes() == text.encode("latin-1")


def test_huge_json_is_not_even_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data").mkdir()
    with (home / "data" / "instances_train2014.json").open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read"))
    assert list_stores() == {}


def test_folder_of_somebody_else_is_no_store(home: Path) -> None:
    for name, file in {
        "images": "cat.jpg",
        "extension": "manifest.json",
        "hub": "train-00000-of-00005.arrow",
        "shards": "data-00000.arrow",
        "nested": "voc/manifest.json",
    }.items():
        path = home / "data" / name / file
        path.parent.mkdir(parents=True)
        path.write_text('{"manifest_version": 3, "name": "not a dataset"}')
    (home / "data" / "voc").symlink_to(home / "gone")
    (home / "data" / "gone.json").symlink_to(home / "gone.json")
    assert list_stores() == {}
    assert find_store("extension") is None
    with pytest.raises(UserError, match=r"data/extension: not a store, ignored"):
        require_store("extension")


@pytest.mark.parametrize(
    "file", ["writer.lock", "train-00000.done.json", "test-00012.arrow.partial", "val-labels.parquet"]
)
def test_begun_store_is_known_by_any_file_that_only_stores_have(home: Path, file: str) -> None:
    (home / "data" / "coco").mkdir(parents=True)
    (home / "data" / "coco" / file).touch()
    assert list(list_stores()) == ["coco"]
    with pytest.raises(UserError, match="store of coco in .* is not finished"):
        require_store("coco")


def test_damaged_manifest_next_to_shards_is_a_store_and_found(home: Path) -> None:
    folder = make_store(home, "voc")
    (folder / "manifest.json").write_text("{")
    assert find_store("voc") is None
    (folder / "train-00000.arrow").touch()
    assert find_store("voc") == str(folder)


def test_what_cannot_be_read_is_no_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data" / "voc").mkdir(parents=True)
    (home / "data" / "cub.json").write_text('{"uri": "s3://bucket"}')
    iterdir = Path.iterdir

    def deny(path: Path, *_: object, **__: object) -> object:
        if path.name in ("voc", "cub.json"):
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", deny)
    monkeypatch.setattr(Path, "read_text", deny)
    assert list_stores() == {}
    assert (find_store("voc"), find_store("cub")) == (None, None)


def test_data_folder_that_cannot_be_read_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)
    with pytest.raises(UserError, match=r"Cannot read .*data \(Permission denied\).*ORCHESTRATOR_HOME"):
        list_stores()


def test_data_folder_that_is_a_file_holds_nothing_and_stays(home: Path) -> None:
    (home / "data").write_text("notes")
    assert (list_stores(), find_store("voc")) == ({}, None)
    with pytest.raises(UserError, match="No store of voc"):
        require_store("voc")
    for uri in (str(home / "data" / "voc"), "s3://bucket/voc"):
        with pytest.raises(UserError, match=r"data is a file, but datasets are kept in a folder.*ORCHESTRATOR_HOME"):
            require_place("voc", uri)
    assert (home / "data").read_text() == "notes"


def test_store_is_not_begun_where_something_else_is_in_the_way(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file. Name another one with --out"):
        require_place("voc", str(tmp_path / "file"))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"app/manifest.json belongs to another program.*--out"):
        require_place("voc", str(tmp_path / "app"))
    (tmp_path / "app" / "manifest.json").rename(tmp_path / "app" / "readme.txt")
    require_place("voc", str(tmp_path / "app"))  # other files do no harm
    require_place("voc", str(tmp_path / "new" / "folder"))


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
        ("digts", "Did you mean digits?"),
        ("brids", "Did you mean birds?"),
        ("teapots", "orchestrator data prepare folder --source DIR --name teapots"),
        ("digits", "generated when a run first needs it"),
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


def test_store_that_would_fill_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100e9, 90e9, 10e9))
    folder = tmp_path / "not" / "there" / "yet"
    with pytest.raises(
        UserError,
        match=r"needs about 73.6 GB, but .*yet has room for 10 GB. Use --encoding jpeg, which takes a seventh",
    ):
        require_room(str(folder), 122_218, 448, "raw")
    with pytest.raises(
        UserError,
        match=r"needs about 11 GB, but .* has room for 10 GB. Make room, or name another place",
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
