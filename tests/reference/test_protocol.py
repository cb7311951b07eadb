"""Compare the split and the draw of single positives with the literature's own preprocessing."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.protocol import draw_single_positives, split_train_val

# Not part of the repository: VOC 2012's ImageSets/Main, in a folder next to the checkout.
LISTS = Path(__file__).parents[3] / "shared" / "data" / "voc2012_ImageSets_Main.tar.xz"
# fmt: off
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on
# Observed positives of each class in the training split of 4,574.
VOC_COUNTS = [251, 128, 291, 174, 151, 119, 325, 393, 229, 112, 101, 422, 136, 135, 946, 102, 122, 107, 187, 143]


@pytest.mark.parametrize(
    ("dataset", "num_train", "num_val"),
    [("VOC", 4574, 1143), ("COCO", 65665, 16416), ("NUS-WIDE", 120000, 30000), ("CUB", 4795, 1199)],
)
def test_split_sizes_are_those_of_the_supplements_table_1(dataset: str, num_train: int, num_val: int) -> None:
    train, val = split_train_val(num_train + num_val)
    assert (len(train), len(val)) == (num_train, num_val)


@pytest.fixture(scope="module")
def voc() -> dict[str, NDArray[np.bool_]]:
    """Return the true labels of VOC 2012's train and val, images sorted by name.

    Label 0 (every object of the class is "difficult") counts as negative.
    """
    if not LISTS.is_file():
        pytest.skip(f"VOC's image lists are not at {LISTS}")
    with tarfile.open(LISTS) as archive:
        texts = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        lines = {name: file.read().decode().splitlines() for name, file in texts.items() if file is not None}
    return {phase: _labels(lines, phase) for phase in ("train", "val")}


def _labels(lines: dict[str, list[str]], phase: str) -> NDArray[np.bool_]:
    positives = [
        {line.split()[0] for line in lines[f"{name}_{phase}.txt"] if line.split()[1] == "1"} for name in VOC_CLASSES
    ]
    images = sorted(set().union(*positives))
    return np.array([[image in there for there in positives] for image in images])


@pytest.mark.parametrize(
    ("phase", "num", "prefix"), [("train", 5717, "6c3763a26035abe6"), ("val", 5823, "d8036dc7413eda64")]
)
def test_draw_on_voc_is_the_literatures_to_the_last_label(
    voc: dict[str, NDArray[np.bool_]], phase: str, num: int, prefix: str
) -> None:
    true = voc[phase]
    assert true.shape == (num, 20)
    observed = draw_single_positives(true, 1200)
    assert hashlib.sha256(observed.astype(np.int8).tobytes("C")).hexdigest().startswith(prefix)


def test_counts_of_each_class_after_the_split(voc: dict[str, NDArray[np.bool_]]) -> None:
    train, _ = split_train_val(len(voc["train"]))
    observed = draw_single_positives(voc["train"], 1200)[train]
    assert observed.sum(0).tolist() == VOC_COUNTS
    assert observed.sum() == 4574
