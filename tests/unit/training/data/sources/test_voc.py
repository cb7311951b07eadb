"""Test VOC 2012: its lists and boxes, and the messages for wrong lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kit.layouts import VOC_CLASSES, make_voc
from training.data.sources.annotations import Annotations
from training.data.sources.voc import read_voc
from training.errors import NotThisDatasetError

COW = VOC_CLASSES.index("cow")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "downloads")


def lists(source: Path) -> Path:
    return source / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_every_level_of_the_devkit_is_accepted(devkit: Path, below: str) -> None:
    voc = read_voc(devkit / below, images=True)
    assert (voc.faults, voc.notes) == ((), ())
    assert voc.classes == VOC_CLASSES
    assert {name: len(phase) for name, phase in voc.phases.items()} == {"train": 12, "test": 6}
    assert voc.phases["train"].files[0] == "JPEGImages/2008_000000.jpg"
    assert len(voc.label_files) == 42
    assert all((voc.root / file).is_file() for file in voc.label_files)


def test_one_alone_is_a_positive(devkit: Path) -> None:
    true = read_voc(devkit).phases["train"].true
    assert true is not None
    listed = (lists(devkit) / "cow_train.txt").read_text().splitlines()
    assert listed[0] == "2008_000000  0"
    assert true[:, COW].tolist() == [line.endswith(" 1") for line in listed]


def test_images_are_sorted_by_name(devkit: Path) -> None:
    for path in lists(devkit).glob("*train.txt"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    voc = read_voc(devkit)
    assert voc.faults == ()
    assert list(voc.phases["train"].ids) == sorted(voc.phases["train"].ids)


def test_boxes_are_from_0_and_exclusive_without_difficult_and_unlisted_objects(devkit: Path) -> None:
    xml = devkit / "VOCdevkit" / "VOC2012" / "Annotations" / "2008_000001.xml"
    xml.write_text(
        "<annotation>"
        "<object><name>dog</name><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "<difficult>0</difficult><bndbox><ymax>20</ymax><xmax>9.5</xmax><ymin>11</ymin><xmin>1</xmin></bndbox></object>"
        "<object><name>dog</name><difficult>1</difficult><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        "<object><name>cat</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        "</annotation>"
    )
    for name in VOC_CLASSES:
        path = lists(devkit) / f"{name}_train.txt"
        lines = path.read_text().splitlines()
        lines[1] = f"2008_000001 {'1' if name == 'dog' else '-1'}"
        path.write_text("\n".join(lines))
    boxes = read_voc(devkit, images=True).phases["train"].boxes
    assert boxes is not None
    assert boxes[1].tolist() == [[VOC_CLASSES.index("dog"), 0, 10, 9.5, 20]]
    assert not any((of_image[:, 0] == COW).any() for of_image in boxes[:1])


def test_without_annotations_there_are_no_boxes(devkit: Path) -> None:
    (devkit / "VOCdevkit" / "VOC2012" / "Annotations").rename(devkit / "elsewhere")
    voc = read_voc(devkit, images=True)
    assert voc.phases["train"].boxes is None
    assert "no folder Annotations/" in voc.notes[0]
    assert voc.faults == ()


def test_an_image_without_a_positive_is_left_out_and_counted(devkit: Path) -> None:
    for name in VOC_CLASSES:
        path = lists(devkit) / f"{name}_val.txt"
        path.write_text(path.read_text().replace("2008_000014  1", "2008_000014 -1"))
    voc = read_voc(devkit)
    assert voc.num_unlabelled == {"train": 0, "test": 1}
    assert "2008_000014" not in voc.phases["test"].ids


def test_an_empty_val_list_still_reads(devkit: Path) -> None:
    for path in lists(devkit).glob("*val.txt"):
        path.write_text("")
    voc = read_voc(devkit)
    assert (voc.faults, len(voc.phases["test"])) == ((), 0)
    true = voc.phases["test"].true
    assert true is not None
    assert true.shape == (0, 20)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "aeroplane_train.txt",
            "2008_000003 -1",
            "2008_000003  2",
            "aeroplane_train.txt:4: a line must be an image and 1, 0 or -1, but is",
        ),
        (
            "aeroplane_train.txt",
            "2008_000003 -1",
            "2008_000003",
            "aeroplane_train.txt:4: a line must be an image and 1, 0 or -1",
        ),
        ("aeroplane_train.txt", "2008_000003", "2009_999999", "aeroplane_train.txt:4: 2009_999999 is not in train.txt"),
        ("train.txt", "2008_000003", "2008_000002", "train.txt:4: '2008_000002' is listed twice, first in line 3"),
        ("cow_val.txt", "2008_000013", "2008_000012", "cow_val.txt:2: 2008_000012 is listed twice"),
        ("cow_val.txt", "2008_000013", "", "cow_val.txt:2: a line must be"),
    ],
)
def test_lists_that_disagree_name_file_and_line(devkit: Path, file: str, old: str, new: str, said: str) -> None:
    rewrite(lists(devkit) / file, old, new)
    assert any(f"ImageSets/Main/{said}" in fault for fault in faults(read_voc(devkit)))


def test_an_image_that_a_class_does_not_list_is_to_be_left_out(devkit: Path) -> None:
    rewrite(lists(devkit) / "cat_train.txt", "2008_000003 -1\n", "")
    (fault,) = read_voc(devkit).faults
    assert (fault.id, fault.path) == ("2008_000003", "ImageSets/Main/cat_train.txt")


def test_another_order_of_rows_is_a_fault_and_read_right(devkit: Path) -> None:
    path = lists(devkit) / "person_train.txt"
    right = read_voc(devkit).phases["train"].true
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([second, first, *rest]))
    voc = read_voc(devkit)
    assert "person_train.txt:1: lists 2008_000001 where train.txt lists 2008_000000" in faults(voc)[0]
    again = voc.phases["train"].true
    assert right is not None
    assert again is not None
    assert np.array_equal(again, right)


def test_a_missing_class_file_or_val_list_is_a_fault(devkit: Path) -> None:
    (lists(devkit) / "sofa_train.txt").unlink()
    (lists(devkit) / "val.txt").unlink()
    voc = read_voc(devkit)
    said = faults(voc)
    assert [fault.path for fault in voc.faults if fault.is_fatal] == [
        "ImageSets/Main/val.txt",
        "ImageSets/Main/sofa_train.txt",
    ]
    assert "ImageSets/Main/sofa_train.txt: is missing" in said
    assert "ImageSets/Main/val.txt: is missing" in said


def test_a_missing_image_and_a_missing_or_broken_annotation_are_faults_of_their_image(devkit: Path) -> None:
    root = devkit / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages" / "2008_000002.jpg").unlink()
    (root / "Annotations" / "2008_000004.xml").unlink()
    (root / "Annotations" / "2008_000005.xml").write_text("<annotation>\n<object>")
    bomb = '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    (root / "Annotations" / "2008_000006.xml").write_text(bomb)
    voc = read_voc(devkit, images=True)
    assert [fault.id for fault in voc.faults] == ["2008_000002", "2008_000004", "2008_000005", "2008_000006"]
    said = faults(voc)
    assert said[0] == "JPEGImages/2008_000002.jpg: is listed, but the file does not exist"
    assert said[1] == "Annotations/2008_000004.xml: is missing"
    assert said[2].startswith("Annotations/2008_000005.xml:2: is not XML")
    assert "declares entities" in said[3]


def test_a_missing_folder_of_images_is_one_fault(devkit: Path) -> None:
    (devkit / "VOCdevkit" / "VOC2012" / "JPEGImages").rename(devkit / "elsewhere")
    said = faults(read_voc(devkit, images=True))
    assert said[0] == "JPEGImages: the folder is missing, and 18 listed images with it"
    assert len(said) == 1


def test_a_file_that_cannot_be_read_is_a_fault(devkit: Path) -> None:
    (lists(devkit) / "sofa_train.txt").unlink()
    (lists(devkit) / "sofa_train.txt").mkdir()
    (lists(devkit) / "sofa_val.txt").write_bytes(b"2008_000012 -1\n\xff\xfe")
    said = faults(read_voc(devkit))
    assert said[0] == "ImageSets/Main/sofa_train.txt: cannot be read: Is a directory"
    assert "ImageSets/Main/sofa_val.txt:2: is not UTF-8 text" in said[1]


def test_the_devkit_of_2007_is_refused_by_its_name_and_by_its_images(devkit: Path) -> None:
    kit = devkit / "VOCdevkit"
    (kit / "VOC2012").rename(kit / "VOC2007")
    with pytest.raises(NotThisDatasetError, match="VOC2007 in .* is VOC 2007"):
        read_voc(devkit)
    (kit / "VOC2007").rename(kit / "pascal")
    for path in (kit / "pascal" / "ImageSets" / "Main").glob("*.txt"):
        path.write_text(path.read_text().replace("2008_", ""))
    with pytest.raises(NotThisDatasetError, match="pascal in .* is VOC 2007"):
        read_voc(devkit)


def test_beside_other_years_that_of_2012_is_read(devkit: Path) -> None:
    make_voc(devkit / "other")
    (devkit / "other" / "VOCdevkit" / "VOC2012").rename(devkit / "VOCdevkit" / "VOC2007")
    assert read_voc(devkit).root.name == "VOC2012"
