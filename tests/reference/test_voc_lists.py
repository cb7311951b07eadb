"""Read VOC 2012's own lists: Table 1, the authors' draw, and the effect of one wrong label."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from training.data.protocol import draw_single_positives, split_train_val
from training.data.sources.voc import read_voc
from training.data.table1 import PAPER, compare, compute_counts, name_class_differences

# Not part of the repository: VOC 2012's ImageSets/Main, in a folder next to the checkout.
LISTS = Path(__file__).parents[3] / "shared" / "data" / "voc2012_ImageSets_Main.tar.xz"
MAIN = Path("VOCdevkit", "VOC2012", "ImageSets", "Main")
OBSERVED = {"train": "6c3763a26035abe6", "test": "d8036dc7413eda64"}
# fmt: off
OBSERVED_IN_TRAIN = [251, 128, 291, 174, 151, 119, 325, 393, 229, 112, 101, 422, 136, 135, 946, 102, 122, 107, 187, 143]
# fmt: on


@pytest.fixture
def source(tmp_path: Path) -> Path:
    if not LISTS.is_file():
        pytest.skip(f"VOC's image lists are not at {LISTS}")
    with tarfile.open(LISTS) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def flip(source: Path, file: str, image: str) -> None:
    path = source / MAIN / file
    before = path.read_text()
    after = (
        before.replace(f"{image} -1", f"{image}  1")
        if f"{image} -1" in before
        else before.replace(f"{image}  1", f"{image} -1")
    )
    assert after != before
    path.write_text(after)


def test_every_figure_of_table_1_and_every_observed_label(source: Path) -> None:
    voc = read_voc(source)
    assert (voc.faults, voc.notes) == ((), ())
    assert voc.num_unlabelled == {"train": 0, "test": 0}
    lines = compare(compute_counts(voc), PAPER["voc"])
    assert [line.computed for line in lines] == [
        "20",
        "1.46",
        "4,574",
        "1,143",
        "5,823",
        "4,574",
        "2,091",
        "84,815",
        "86,906",
    ]
    assert all(line.equal for line in lines)
    assert name_class_differences(voc) == []
    for phase, prefix in OBSERVED.items():
        true = voc.phases[phase].true
        assert true is not None
        observed = draw_single_positives(true, 1200)
        assert hashlib.sha256(observed.astype(np.int8).tobytes("C")).hexdigest().startswith(prefix)
    true = voc.phases["train"].true
    assert true is not None
    assert draw_single_positives(true)[split_train_val(len(true))[0]].sum(0).tolist() == OBSERVED_IN_TRAIN


def test_one_flipped_label_of_train_shows_in_table_1_and_is_named(source: Path) -> None:
    ids = read_voc(source).phases["train"].ids
    image = ids[int(split_train_val(len(ids))[0][100])]
    flip(source, "cow_train.txt", image)
    voc = read_voc(source)
    differ = {line.key: line.difference for line in compare(compute_counts(voc), PAPER["voc"]) if not line.equal}
    assert differ == {"false_negatives": "+1", "true_negatives": "-1"}
    assert name_class_differences(voc) == ["positive images of official train: cow 152 instead of 151"]


def test_one_flipped_label_of_test_is_named(source: Path) -> None:
    flip(source, "dog_val.txt", read_voc(source).phases["test"].ids[-1])
    (said,) = name_class_differences(read_voc(source))
    assert said.startswith("positive images of official test: dog 65")
