"""Test known negatives and recordings in the tables of your own data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.folder_texts import faults, write
from training.data.sources.folder import read_folder

COLUMNS = "image,cat,dog,mug,plant,recording\na.jpg,1,-1,,0,r1\nb.jpg,0,-1.0,1,,r1\nc.jpg,,,−1,,\n"
LISTS = "image,labels,negatives,Recording\na.jpg,cat,dog,r1\nb.jpg,mug,dog,r1\nc.jpg,,mug,\n"


@pytest.mark.parametrize("table", [COLUMNS, LISTS], ids=["columns", "lists"])
def test_observed_labels_may_be_known_negatives(tmp_path: Path, table: str) -> None:
    classes = "cat\ndog\nmug\nplant\n"
    splits = {"train_txt": "a.jpg\nb.jpg\nc.jpg\n", "classes_txt": classes}
    read = read_folder(write(tmp_path / "data", observed_csv=table, **splits))
    assert read.faults == ()
    train = read.phases["train"]
    assert train.ids == ("a.jpg", "b.jpg", "c.jpg"), "c.jpg has a known negative alone, and is kept"
    assert train.observed is not None
    assert train.observed.astype(int).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert train.negatives["given"].astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert train.recordings == ("r1", "r1", "c.jpg")
    assert "3 labels of train are known to be negative (data.negatives)" in read.notes


def test_mistaken_negatives(tmp_path: Path) -> None:
    said = {
        "twice": ("observed_csv", "image,labels,negatives\na.jpg,cat,cat;dog\n"),
        "true": ("labels_csv", "image,cat,dog\na.jpg,1,-1\n"),
    }
    found = {
        name: faults(read_folder(write(tmp_path / name, **{file: text})))[0] for name, (file, text) in said.items()
    }
    assert found["twice"] == "observed.csv:2: 'cat' must be in labels or in negatives, but not in both"
    assert found["true"].startswith("labels.csv:2: cells of a class must be 1 or 0, but 'dog' has '-1'")
    both = {"labels_csv": "image,cat,dog\na.jpg,1,0\n", "observed_csv": "image,cat,dog\na.jpg,-1,\n"}
    assert faults(read_folder(write(tmp_path / "both", **both)))[0] == (
        "observed.csv: a.jpg has a -1 where its true label is 1"
    )
    parts = {"observed_csv": "image,cat,dog,recording\na.jpg,1,,r\nb.jpg,,1,r\n"}
    assert any("parts of one recording are in train and in test" in note for note in
               read_folder(write(tmp_path / "parts", **parts)).notes)  # fmt: skip
