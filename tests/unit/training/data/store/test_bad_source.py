"""Test what becomes of a source with faults: all are listed, and left out if that was asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.kit.pictures import make_source
from tests.kit.written_stores import break_file, content, write
from training.data.sources.annotations import Annotations, Fault, Phase
from training.data.store import writer as store_writer
from training.data.store.bad_source import BadSourceError
from training.data.store.file_names import MANIFEST
from training.data.store.images import Preprocessing
from training.data.store.manifest import read_manifest
from training.data.store.reader import open_store
from training.data.store.shard_notes import source_hash
from training.data.store.writer import find_finished
from training.errors import StoreError


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "SHARD_IMAGES", 8)


@pytest.fixture
def source(tmp_path: Path) -> Annotations:
    return make_source(tmp_path / "source")


def test_all_faults_are_listed_and_nothing_opens(source: Annotations, tmp_path: Path) -> None:
    train, test = source.phases["train"].files, source.phases["test"].files
    break_file(source, train[2])
    (source.root / train[17]).unlink()
    (source.root / test[1]).write_bytes(b"")
    told = Fault("labels.csv", "names an image twice", line=4)
    with pytest.raises(BadSourceError) as caught:
        write(replace(source, faults=(told,)), tmp_path / "store")
    assert [fault.path for fault in caught.value.faults] == ["labels.csv", train[2], train[17], test[1]]
    for word in (
        "labels.csv:4: names an image twice",
        f"{train[2]}: cannot be decoded",
        f"{train[17]}: is missing",
        "is empty",
        "--skip-bad",
    ):
        assert word in str(caught.value)
    with pytest.raises(StoreError, match="continues where it stopped"):
        open_store(str(tmp_path / "store"))


def test_leaving_out_is_advised_only_where_something_would_be_left(source: Annotations, tmp_path: Path) -> None:
    train = source.phases["train"].files
    (source.root / train[0]).unlink()
    (source.root / train[0]).symlink_to("/nowhere/1.jpg")
    with pytest.raises(BadSourceError, match="is a link to '/nowhere/1.jpg', which(.|\n)*keeps 19 training images"):
        write(source, tmp_path / "store")
    for file in train[1:]:
        break_file(source, file)
    with pytest.raises(BadSourceError) as caught:
        write(source, tmp_path / "store")
    assert "--skip-bad does not help, because no training image would be left" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 8  # however many images are broken in the same way


def test_fixed_source_is_finished_and_equals_one_that_was_always_whole(source: Annotations, tmp_path: Path) -> None:
    bad = source.root / source.phases["train"].files[2]
    good = bad.read_bytes()
    write(source, tmp_path / "whole")
    bad.write_bytes(good[:100])
    with pytest.raises(BadSourceError):
        write(source, tmp_path / "store")
    bad.write_bytes(good)
    write(source, tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_wording_of_faults_does_not_decide_whether_a_store_is_finished(source: Annotations, tmp_path: Path) -> None:
    bad = Fault("labels.csv", "says nothing of it", line=9, id=source.phases["train"].ids[9])
    first = write(replace(source, faults=(bad,)), tmp_path / "store", skip_bad=True)
    reworded = replace(source, faults=(replace(bad, why="does not mention it"),))
    assert find_finished(reworded, str(tmp_path / "store"), image_size=16) == first
    # Stores of earlier versions, whose hash covered the wording.
    path = tmp_path / "store" / MANIFEST
    path.write_text(path.read_text().replace(first.source_hash, "0" * 64))
    assert find_finished(reworded, str(tmp_path / "store"), image_size=16) is not None
    for other in (
        source,
        replace(source, faults=(replace(bad, id=source.phases["train"].ids[8]),)),
        replace(reworded, label_files={"labels.csv": "ab" * 32}),
    ):
        with pytest.raises(StoreError, match="already holds mine"):
            find_finished(other, str(tmp_path / "store"), image_size=16)
    with pytest.raises(StoreError, match="already holds mine"):
        find_finished(reworded, str(tmp_path / "store"), image_size=32)


def test_source_hash_of_a_source_without_faults_is_that_of_earlier_versions(source: Annotations) -> None:
    assert source_hash(source, Preprocessing(16, "raw"), False).startswith("832fc82db2a4")


def test_skip_bad_leaves_out_and_records(source: Annotations, tmp_path: Path) -> None:
    train = source.phases["train"]
    whole = write(source, tmp_path / "whole")
    break_file(source, train.files[2])
    known = Fault("labels.csv", "says nothing of it", line=9, id=train.ids[9])
    manifest = write(replace(source, faults=(known,)), tmp_path / "store", skip_bad=True)
    assert manifest.counts == {"train": 18, "test": 6}
    assert manifest.left_out[0] == known
    assert (manifest.left_out[1].path, manifest.left_out[1].id) == (train.files[2], train.ids[2])
    assert manifest.data_hash != whole.data_hash
    assert read_manifest(str(tmp_path / "store")) == manifest
    # A second run finds it finished, with or without the flag.
    assert write(replace(source, faults=(known,)), tmp_path / "store") == manifest


def test_images_of_a_missing_folder_are_left_out_without_naming_each(source: Annotations, tmp_path: Path) -> None:
    test = source.phases["test"]
    moved = replace(test, files=tuple(file.replace("images/", "elsewhere/") for file in test.files))
    missing = Fault("elsewhere", "the folder is missing, and 6 listed images with it")
    broken = replace(source, phases={**source.phases, "test": moved}, faults=(missing,))
    with pytest.raises(BadSourceError) as caught:
        write(broken, tmp_path / "store")
    assert caught.value.faults == (missing,)
    manifest = write(broken, tmp_path / "store", skip_bad=True)
    assert (manifest.counts, manifest.left_out) == ({"train": 20, "test": 0}, (missing,))


def test_store_without_a_training_image_is_refused(source: Annotations, tmp_path: Path) -> None:
    missing = Fault("images", "the folder is missing, and 26 listed images with it")
    with pytest.raises(
        StoreError, match="None of the 20 training images can be used; the first fault: images: the folder is missing"
    ):
        write(replace(source, faults=(missing,)), tmp_path / "store", skip_bad=True)
    none = Phase((), (), np.zeros((0, 3), bool))
    with pytest.raises(StoreError, match="The source lists no training images"):
        write(replace(source, phases={**source.phases, "train": none}), tmp_path / "other")
    assert find_finished(source, str(tmp_path / "store"), image_size=16) is None


def test_label_file_that_cannot_be_trusted_is_not_left_out(source: Annotations, tmp_path: Path) -> None:
    cut = Fault("labels.csv", "is cut in half", is_fatal=True)
    with pytest.raises(BadSourceError, match="--skip-bad does not help"):
        write(replace(source, faults=(cut,)), tmp_path / "store", skip_bad=True)
    assert not (tmp_path / "store").exists(), "nobody waits for images that cannot be used"


def test_what_is_not_a_plain_file_is_a_fault_and_not_waited_for(source: Annotations, tmp_path: Path) -> None:
    files = source.phases["train"].files
    for file in files[:2]:
        (source.root / file).unlink()
    os.mkfifo(source.root / files[0])
    (source.root / files[1]).symlink_to("/dev/zero")
    (source.root / files[2]).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    manifest = write(source, tmp_path / "store", skip_bad=True)
    assert [fault.path for fault in manifest.left_out] == list(files[:3])
    assert [fault.why for fault in manifest.left_out[:2]] == ["is not a plain file"] * 2
