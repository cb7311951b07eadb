"""Test CUB-200-2011: attributes, official split and parts, overlong lines, and wrong files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kit.layouts import CUB_ATTRIBUTES, CUB_PARTS, make_cub
from training.data.sources.annotations import Annotations
from training.data.sources.cub import read_cub
from training.errors import NotThisDatasetError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_cub(tmp_path / "downloads")


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


def labels_of(source: Path) -> Path:
    return source / "CUB_200_2011" / "attributes" / "image_attribute_labels.txt"


@pytest.mark.parametrize("below", ["", "CUB_200_2011", ".."])
def test_every_level_is_accepted(source: Path, below: str) -> None:
    cub = read_cub(source / below, images=True)
    assert (cub.faults, cub.notes) == ((), ())
    assert cub.classes == CUB_ATTRIBUTES
    assert cub.parts == CUB_PARTS
    assert {name: len(phase) for name, phase in cub.phases.items()} == {"train": 8, "test": 4}
    assert "../attributes.txt" in cub.label_files


def test_labels_are_the_first_three_columns_of_every_line(source: Path) -> None:
    rows = [line.split() for line in labels_of(source).read_text().splitlines()]
    assert {len(row) for row in rows} == {5, 7}
    plain = np.zeros((12, 312), bool)
    for number, attribute, present, *_ in rows:
        plain[int(number) - 1, int(attribute) - 1] = present == "1"
    cub = read_cub(source)
    split = [line.split()[1] for line in (source / "CUB_200_2011" / "train_test_split.txt").read_text().splitlines()]
    for phase, mark in (("train", "1"), ("test", "0")):
        rows_of = [row for row, value in enumerate(split) if value == mark]
        assert cub.phases[phase].ids == tuple(str(row + 1) for row in rows_of)
        assert cub.phases[phase].true is not None
        assert np.array_equal(cub.phases[phase].true, plain[rows_of])  # type: ignore[arg-type]


def test_lines_in_another_order_and_with_trailing_blanks_give_the_same(source: Path) -> None:
    before = read_cub(source).phases["train"].true
    lines = labels_of(source).read_text().splitlines()
    labels_of(source).write_text("".join(f"{line} \r\n" for line in reversed(lines)), newline="")
    after = read_cub(source)
    assert after.faults == ()
    assert before is not None
    assert np.array_equal(before, after.phases["train"].true)  # type: ignore[arg-type]


def test_visible_parts_alone_are_points(source: Path) -> None:
    cub = read_cub(source, images=True)
    for phase in cub.phases.values():
        assert phase.points is not None
        for id, points in zip(phase.ids, phase.points, strict=True):
            hidden = (int(id) - 1) % len(CUB_PARTS)
            assert points[:, 0].tolist() == [part for part in range(len(CUB_PARTS)) if part != hidden]
            assert points[:, 1:].tolist() == [[8 + 5 * part, 10 + 3 * part] for part in points[:, 0]]
    assert read_cub(source).phases["train"].points is None


def test_attributes_may_be_named_inside_the_folder_or_nowhere(source: Path) -> None:
    (source / "attributes.txt").rename(source / "CUB_200_2011" / "attributes" / "attributes.txt")
    assert read_cub(source).classes == CUB_ATTRIBUTES
    (source / "CUB_200_2011" / "attributes" / "attributes.txt").unlink()
    cub = read_cub(source)
    assert (cub.classes[0], len(cub.classes)) == ("attribute_001", 312)
    assert "no attributes.txt" in cub.notes[0]


def test_a_missing_and_a_second_line_are_faults_of_their_image(source: Path) -> None:
    lines = labels_of(source).read_text().splitlines()
    del lines[5]
    labels_of(source).write_text("\n".join([*lines, lines[400]]))
    first, second = read_cub(source).faults
    assert (first.id, first.why) == (
        "1",
        "image 1 must have a line for each attribute, but 1 are missing and 0 occur twice",
    )
    assert (second.id, second.why) == (
        "2",
        "image 2 must have a line for each attribute, but 0 are missing and 1 occur twice",
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 3", ":3: a line must be image, attribute, 0 or 1, certainty and time, but is '1 3'"),
        ("1 x 0 1 2.5", ":3: a line must be"),
        ("1 3 yes 1 2.5 0 0", ":3: a line must be"),
        ("1 313 0 1 2.5", "a line says 1 313 0"),
        ("99 3 0 1 2.5", "a line says 99 3 0"),
        ("1 3 2 1 2.5", "a line says 1 3 2"),
    ],
)
def test_a_wrong_line_is_a_fault(source: Path, line: str, said: str) -> None:
    lines = labels_of(source).read_text().splitlines()
    lines[2] = line
    labels_of(source).write_text("\n".join(lines))
    assert said in faults(read_cub(source))[0]


def test_files_that_disagree_are_faults(source: Path) -> None:
    root = source / "CUB_200_2011"
    split = (root / "train_test_split.txt").read_text().splitlines()
    (root / "train_test_split.txt").write_text("\n".join(["1 2", *split[2:], "77 1", "oops"]))
    images = (root / "images.txt").read_text().splitlines()
    (root / "images.txt").write_text("\n".join([*images[:-1], "12 " + images[0].split()[1]]))
    said = faults(read_cub(source))
    assert "images.txt: lists a file twice" in said
    assert "train_test_split.txt:13: a line must be a number and a value, but is 'oops'" in said
    assert "train_test_split.txt: image 1 must have 1 (train) or 0 (test), but has '2'" in said
    assert "train_test_split.txt: image 77 is not in images.txt" in said
    assert "train_test_split.txt: image 2 of images.txt has no line" in said


def test_without_images_the_folder_of_all_of_them_is_missing(tmp_path: Path) -> None:
    said = faults(read_cub(make_cub(tmp_path / "cub", images=False), images=True))
    assert said == ["images: the folder is missing, and 12 listed images with it"]


def test_without_parts_it_is_noted_and_a_part_without_a_name_is_a_fault(source: Path) -> None:
    parts = source / "CUB_200_2011" / "parts"
    (parts / "parts.txt").write_text("".join((parts / "parts.txt").read_text().splitlines(keepends=True)[:-1]))
    assert faults(read_cub(source, images=True)) == [
        "parts/part_locs.txt:5: part must be 1 to 4, the parts of parts.txt, but is 5"
    ]
    parts.rename(source / "elsewhere")
    cub = read_cub(source, images=True)
    assert (cub.faults, cub.parts, cub.phases["train"].points) == ((), (), None)
    assert "no folder parts" in cub.notes[0]


def test_missing_files_are_faults(source: Path) -> None:
    root = source / "CUB_200_2011"
    labels_of(source).unlink()
    (root / "images" / "001.Bird_0" / "Bird_0000_0.jpg").unlink()
    (root / "parts" / "part_locs.txt").unlink()
    cub = read_cub(source, images=True)
    said = faults(cub)
    assert "attributes/image_attribute_labels.txt: is missing" in said
    assert "parts/part_locs.txt: is missing" in said
    assert [fault.id for fault in cub.faults if fault.id] == ["1"]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"")
    with pytest.raises(NotThisDatasetError, match=r"for images\.txt next to .*The folder holds CUB_200_2011\.tgz"):
        read_cub(tmp_path)
    with pytest.raises(NotThisDatasetError, match="is a file. Unpack it"):
        read_cub(tmp_path / "CUB_200_2011.tgz")
