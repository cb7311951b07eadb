"""Test that a store is written once, completely or not at all, and is the same however often it was interrupted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.pictures import make_source, write_picture
from tests.kit.written_stores import content, write
from training.data.sources.annotations import Annotations
from training.data.store import shard_notes
from training.data.store import writer as store_writer
from training.data.store.file_names import MANIFEST
from training.data.store.images import ImageFacts
from training.data.store.label_table import LabelTable, compute_data_hash
from training.data.store.manifest import read_manifest
from training.data.store.reader import open_store
from training.data.store.storage import Storage
from training.data.store.writer import find_finished
from training.errors import StoreError


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "SHARD_IMAGES", 8)


@pytest.fixture
def source(tmp_path: Path) -> Annotations:
    return make_source(tmp_path / "source")


def test_files_of_a_store(source: Annotations, tmp_path: Path) -> None:
    manifest = write(source, tmp_path / "store", keep_originals=True)
    shards = ["test-00000", "train-00000", "train-00001", "train-00002"]
    expected = {f"{each}{kind}.arrow" for each in shards for kind in ("", ".originals")} | {
        "train-labels.parquet",
        "test-labels.parquet",
    }
    assert set(manifest.files) == expected
    assert set(content(tmp_path / "store")) == expected | {MANIFEST}
    assert manifest.counts == {"train": 20, "test": 6}
    assert manifest.has_true == {"train": True, "test": True}
    assert read_manifest(str(tmp_path / "store")) == manifest


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_store_does_not_depend_on_the_number_of_workers(source: Annotations, tmp_path: Path, encoding: str) -> None:
    write(source, tmp_path / "one", workers=1, encoding=encoding)
    write(source, tmp_path / "five", workers=5, encoding=encoding)
    assert content(tmp_path / "one") == content(tmp_path / "five")


def test_data_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    first = make_source(tmp_path / "here")
    second = replace(make_source(tmp_path / "there"), name="other", layout="elsewhere", label_files={})
    expected = write(first, tmp_path / "a").data_hash
    assert write(second, tmp_path / "b", keep_originals=True).data_hash == expected
    assert write(first, tmp_path / "c", image_size=17).data_hash != expected
    assert write(first, tmp_path / "d", encoding="jpeg").data_hash != expected
    labels = first.phases["train"].true
    assert labels is not None
    labels[0, 0] ^= True
    assert write(first, tmp_path / "e").data_hash != expected


def test_data_hash_stands() -> None:
    # Pixels of the originals come from a codec, so this hashes what is given here and nothing that a library makes.
    table = LabelTable(
        ids=("a", "b"),
        files=("a.jpg", "b.jpg"),
        facts=(ImageFacts("00" * 32, 4, 3), None),
        true=np.array([[True, False, True], [False, False, False]]),
        observed=None,
        boxes=(np.array([[0, 1, 2, 3, 4]], np.int16), np.zeros((0, 5), np.int16)),
        points=None,
    )
    assert compute_data_hash({"train": table}, ["x", "y", "z"], [], {"image_size": 8}, 1).startswith("ed15f06c94e12fbc")


def test_second_run_touches_nothing_and_says_so(source: Annotations, tmp_path: Path) -> None:
    assert find_finished(source, str(tmp_path / "store"), image_size=16) is None
    first = write(source, tmp_path / "store")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    told: list[tuple[int, int]] = []
    assert write(source, tmp_path / "store", on_progress=lambda done, total: told.append((done, total))) == first
    assert find_finished(source, str(tmp_path / "store"), image_size=16) == first
    assert told == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == before


def test_finished_store_of_other_settings_or_labels_is_not_overwritten(source: Annotations, tmp_path: Path) -> None:
    write(source, tmp_path / "store")
    before = content(tmp_path / "store")
    with pytest.raises(StoreError, match="already holds mine at 16 px as raw.*--out"):
        write(source, tmp_path / "store", image_size=32)
    with pytest.raises(StoreError, match="already holds mine"):
        write(make_source(tmp_path / "more", num_train=21), tmp_path / "store")
    assert content(tmp_path / "store") == before


def test_finished_store_that_lost_a_file_is_not_called_done(source: Annotations, tmp_path: Path) -> None:
    write(source, tmp_path / "store")
    (tmp_path / "store" / "train-00001.arrow").unlink()
    with pytest.raises(StoreError, match=r"train-00001\.arrow is missing. Delete .*/manifest.json and prepare"):
        write(source, tmp_path / "store")


class _Stopped(BaseException):
    """Stands for Ctrl-C, which no `except Exception` catches."""


@pytest.mark.parametrize("puts", range(9))
def test_stopped_at_any_file_it_goes_on_and_ends_the_same(
    source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    write(source, tmp_path / "whole")
    put = Storage.put
    calls: list[str] = []

    def dying_put(self: Storage, name: str, payload: Any) -> None:
        if len(calls) == puts:
            raise _Stopped
        calls.append(name)
        put(self, name, payload)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", dying_put)
        with pytest.raises(_Stopped):
            write(source, tmp_path / "store")
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "store"))
    # What was noted as whole is not made again.
    kept = {name.removesuffix(".done.json") for name in calls if name.endswith(".done.json")}
    again: list[str] = []

    def noting_put(self: Storage, name: str, payload: Any) -> None:
        again.append(name)
        put(self, name, payload)

    monkeypatch.setattr(Storage, "put", noting_put)
    told: list[tuple[int, int]] = []
    write(source, tmp_path / "store", on_progress=lambda done, total: told.append((done, total)))
    assert {name.removesuffix(".arrow") for name in again if name.endswith(".arrow")} == {
        "train-00000", "train-00001", "train-00002", "test-00000"
    } - kept  # fmt: skip
    assert told[0][0] == sum(
        {"train-00000": 8, "train-00001": 8, "train-00002": 4, "test-00000": 6}[name] for name in kept
    )
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_shard_is_made_again_if_its_file_its_original_or_the_settings_changed(
    source: Annotations, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "_finish", lambda *_: (_ for _ in ()).throw(_Stopped))
        with pytest.raises(_Stopped):
            write(source, out)
        (out / "train-00000.arrow").write_bytes(b"short")
        write_picture(source.root / source.phases["train"].files[9], np.random.default_rng(1))
        (out / "test-00000.done.json").write_text('{"key"')
        made: list[str] = []

        def noting_write(storage: Storage, shard: shard_notes.PlannedShard, **more: Any) -> shard_notes.Note:
            made.append(shard.name)
            return shard_notes.write_shard(storage, shard, **more)

        patch.setattr(store_writer, "write_shard", noting_write)
        with pytest.raises(_Stopped):
            write(source, out)
        assert made == ["train-00000.arrow", "train-00001.arrow", "test-00000.arrow"]
        made.clear()
        with pytest.raises(_Stopped):
            write(source, out, image_size=20)
        assert len(made) == 4
    write(source, out)
    write(source, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_leftovers_of_other_settings_go(source: Annotations, tmp_path: Path) -> None:
    out = tmp_path / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "_finish", lambda *_: (_ for _ in ()).throw(_Stopped))
        with pytest.raises(_Stopped):
            write(source, out, keep_originals=True)
    (out / "train-00000.arrow.partial").write_bytes(b"half")
    own = {
        "notes.txt",
        "embeddings.arrow",
        "data-00000-of-00001.arrow",
        "film.mp4.partial",
        "job.done.json",
        "labels.parquet",
    }
    for name in own:
        (out / name).write_text("the user's own")
    manifest = write(source, out)
    assert set(content(out)) == {*manifest.files, MANIFEST, *own}


def test_no_space_says_how_far_it_got_and_is_gone_on_from(
    source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, tmp_path / "whole")
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            StoreError, match=r"No space left on device\). 8 of 26 images are done and kept.*run the same command again"
        ):
            write(source, tmp_path / "store")
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.endswith(".partial")]
    write(source, tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_no_permission_is_said(source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Injected, since tests may run as root, who may write everywhere.
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StoreError, match=r"Cannot write the store .*store \(Permission denied\). 0 of 26 images"):
        write(source, tmp_path / "store")


def test_folder_that_is_a_file_is_said(source: Annotations, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write the store"):
        write(source, tmp_path / "file" / "store")


def test_second_writer_is_refused_and_names_the_first(source: Annotations, tmp_path: Path) -> None:
    out = tmp_path / "store"
    out.mkdir()
    with open(out / "writer.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"pid": 4711, "host": "node7", "since": "12:00"}, file)
        file.flush()
        with pytest.raises(StoreError, match="process 4711 on node7 since 12:00"):
            write(source, out)
    write(source, out)
    assert not (out / "writer.lock").exists()


def test_images_without_any_positive_and_with_observed_labels_only(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", has_true=False, num_val=4)
    manifest = write(source, tmp_path / "store")
    assert manifest.has_true == {"train": False, "val": False, "test": False}
    assert manifest.counts == {"train": 20, "val": 4, "test": 6}
