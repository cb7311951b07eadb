"""Test that a dataset is prepared once, that requests are checked before any work, and what the user is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.datasets import preparing
from orchestrator.datasets.listing import describe_store
from orchestrator.datasets.prepared import find_store
from orchestrator.datasets.preparing import PrepareRequest, prepare_dataset
from orchestrator.errors import UserError
from tests.kit.layouts import make_voc
from training.data.store.bad_source import BadSourceError


@pytest.fixture
def request_(tmp_path: Path) -> PrepareRequest:
    return PrepareRequest("voc", make_voc(tmp_path / "downloads"), None, None, 16, None, False, 1, False)


def test_prepared_once_and_found_by_its_name(request_: PrepareRequest, home: Path) -> None:
    notes: list[str] = []
    first = prepare_dataset(request_, notes.append)
    assert (first.name, first.uri, first.is_new) == ("voc", str(home / "data" / "voc"), True)
    assert first.manifest.encoding == "raw"
    assert notes[0].startswith("voc: devkit, ImageSets/Main, ")
    assert find_store("voc") == first.uri
    assert prepare_dataset(request_, notes.append) == replace(first, is_new=False)


def test_notes_that_may_follow_from_a_fault_do_not_come_before_it(request_: PrepareRequest, tmp_path: Path) -> None:
    source = tmp_path / "own"
    (source / "images").mkdir(parents=True)
    for name in "abcd":
        Image.new("RGB", (8, 8)).save(source / "images" / f"{name}.jpg")
    request, notes = replace(request_, dataset="folder", source=source), list[str]()
    (source / "labels.csv").write_text("picture,cat,dog\na.jpg,1,0\n")
    with pytest.raises(BadSourceError, match="must have a column image"):
        prepare_dataset(request, notes.append)
    assert notes == []
    (source / "labels.csv").write_text("image,cat,dog\na.jpg,1,0\nb.jpg,0,0\nlost.jpg,0,1\n")
    with pytest.raises(BadSourceError, match="lost.jpg: is listed"):
        prepare_dataset(request, notes.append)
    assert [note for note in notes if note.startswith("note")] == []
    done = prepare_dataset(replace(request, skip_bad=True), notes.append)
    assert any(note.startswith("note: left out 2 images with no row or no split: ") for note in notes)
    assert "3 images, 2 classes (cat, dog)" in notes[0]
    (left_out, fault) = describe_store(done.name, done.uri, done.manifest)[2:]
    assert (left_out, "lost.jpg" in fault) == ("  left out (1):", True)  # one's own data are in no paper


def test_given_labels_are_counted(request_: PrepareRequest, tmp_path: Path) -> None:
    source, notes = tmp_path / "own", list[str]()
    (source / "images").mkdir(parents=True)
    for name in "abcde":
        Image.new("RGB", (8, 8)).save(source / "images" / f"{name}.jpg")
    (source / "observed.csv").write_text(
        "image,split,cat,dog\na.jpg,train,1,-1\nb.jpg,train,0,1\nc.jpg,train,1,\nd.jpg,train,0,-1\ne.jpg,val,1,0\n"
    )
    prepare_dataset(replace(request_, dataset="folder", source=source), notes.append)
    assert "labels of the official train set: 3 observed positives, 2 known negatives, 3 unknown" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "png"}, "--encoding must be one of jpeg, raw"),
        ({"dataset": "vco"}, "Did you mean voc"),
        ({"name": "mine"}, "--name goes with folder only"),
        ({"out": "s3://key:secret@bucket/voc"}, "must not contain credentials"),
        ({"out": "{file}"}, "is a file"),
    ],
)
def test_wrong_request_is_refused_before_the_source_is_read(
    request_: PrepareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(preparing, "read_source", lambda *_, **__: pytest.fail("read"))
    given: dict[str, Any] = {key: text.format(file=tmp_path / "file") for key, text in changes.items()}
    request = replace(request_, **given)
    with pytest.raises(UserError, match=message):
        prepare_dataset(request, lambda note: None)


def test_stopped_it_says_how_to_continue_and_remembers_nothing(
    request_: PrepareRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "write_store", stop)
    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(replace(request_, out=str(tmp_path / "disk")), notes.append)
    assert notes[-1] == "stopped: run the same command again to continue"
    assert not (home / "data").exists()
