"""Test COCO 2014: images, their order, labels and boxes, and broken JSONs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.layouts import COCO_CATEGORIES, make_coco
from training.data.sources.annotations import Annotations, Phase
from training.data.sources.coco import read_coco
from training.errors import NotThisDatasetError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def train_json(source: Path) -> Path:
    return source / "annotations" / "instances_train2014.json"


def edit(source: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(train_json(source).read_text())
    change(content)
    train_json(source).write_text(json.dumps(content))
    return content


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


def plain_labels(content: dict[str, Any]) -> tuple[list[str], list[list[bool]]]:
    """Return ids and labels as the protocol defines them, in the plainest code."""
    categories = [category["id"] for category in content["categories"]]
    of_image: dict[int, set[int]] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    ids = sorted(str(id) for id in of_image)
    return ids, [[number in of_image[int(id)] for number in categories] for id in ids]


@pytest.mark.parametrize("below", ["", "annotations", ".."])
def test_every_level_is_accepted(source: Path, below: str) -> None:
    coco = read_coco(source / below, images=True)
    assert (coco.faults, coco.notes) == ((), ())
    assert {name: len(phase) for name, phase in coco.phases.items()} == {"train": 12, "test": 6}
    assert coco.num_unlabelled == {"train": 1, "test": 1}
    assert set(coco.label_files) == {"annotations/instances_train2014.json", "annotations/instances_val2014.json"}


def test_ids_are_sorted_as_strings_and_columns_as_the_json_lists_them(source: Path) -> None:
    coco = read_coco(source)
    phase = coco.phases["train"]
    ids, labels = plain_labels(json.loads(train_json(source).read_text()))
    assert phase.true is not None
    assert list(phase.ids) == ids != sorted(ids, key=int)
    assert phase.true.tolist() == labels
    assert coco.classes == tuple(COCO_CATEGORIES.values())
    assert [int(file[-16:-4]) for file in phase.files] == [int(id) for id in ids]


def test_a_crowd_counts_and_an_image_without_annotation_is_left_out(source: Path) -> None:
    content = json.loads(train_json(source).read_text())
    crowds = {str(annotation["image_id"]) for annotation in content["annotations"] if annotation["iscrowd"]}
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    (without,) = {image["id"] for image in content["images"]} - annotated
    ids = read_coco(source).phases["train"].ids
    assert crowds
    assert crowds <= set(ids)
    assert str(without) not in ids


def test_boxes_lie_where_the_json_says(source: Path) -> None:
    phase: Phase = read_coco(source, images=True).phases["train"]
    content = json.loads(train_json(source).read_text())
    columns = list(COCO_CATEGORIES)
    assert phase.boxes is not None
    for id, boxes in zip(phase.ids, phase.boxes, strict=True):
        own = [annotation for annotation in content["annotations"] if annotation["image_id"] == int(id)]
        corners = [(columns.index(one["category_id"]), *one["bbox"]) for one in own]
        assert boxes.tolist() == [
            [label, left, top, left + width, top + height] for label, left, top, width, height in corners
        ]
        assert boxes.dtype == np.float32


def test_boxes_without_area_are_left_out_and_malformed_ones_are_faults(source: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["bbox"].pop()

    content = edit(source, spoil)
    coco = read_coco(source, images=True)
    assert coco.phases["train"].boxes is not None
    assert sum(len(boxes) for boxes in coco.phases["train"].boxes) == len(content["annotations"]) - 2
    assert [fault.id for fault in coco.faults] == [str(content["annotations"][1]["image_id"])]


def test_names_and_boxes_are_not_checked_against_a_list(source: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["name"] += " of my own"

    edit(source, rename)
    coco = read_coco(source)
    assert coco.classes[0] == "person of my own"
    assert "has different categories from the training JSON" in faults(coco)[0]


def test_images_may_lie_in_a_folder_images(source: Path) -> None:
    (source / "images").mkdir()
    for name in ("train2014", "val2014"):
        (source / name).rename(source / "images" / name)
    coco = read_coco(source, images=True)
    assert coco.faults == ()
    assert coco.phases["test"].files[0].startswith("images/val2014/")


def test_a_json_cut_in_half_names_the_place(source: Path) -> None:
    content = train_json(source).read_bytes()
    train_json(source).write_bytes(content[: len(content) // 2])
    coco = read_coco(source)
    (said,) = faults(coco)
    assert coco.faults[0].is_fatal
    assert said.startswith("annotations/instances_train2014.json:1: is not complete JSON:")
    assert f"of {len(content) // 2:,})" in said
    assert (len(coco.phases["train"]), len(coco.phases["test"])) == (0, 6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not complete JSON: Expecting value at line 1"),
        ("[1, 2]", "does not hold COCO instances"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images, categories"),
        ('{"images": [{"id": "a"}], "annotations": [], "categories": []}', "does not hold COCO instances"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "has entries without images.file_name",
        ),
    ],
)
def test_another_json_is_a_fault(source: Path, text: str, said: str) -> None:
    train_json(source).write_text(text)
    assert said in faults(read_coco(source))[0]


def test_a_json_over_many_lines_reads_the_same(source: Path) -> None:
    before = read_coco(source).phases["train"]
    train_json(source).write_text(json.dumps(json.loads(train_json(source).read_text()), indent=2))
    after = read_coco(source).phases["train"]
    assert before.true is not None
    assert after.ids == before.ids
    assert np.array_equal(before.true, after.true) if after.true is not None else False


def test_a_missing_json_is_a_fault_and_both_missing_another_dataset(source: Path) -> None:
    train_json(source).rename(source / "annotations" / "instances_train2017.json")
    assert "annotations/instances_train2014.json: is missing" in faults(read_coco(source))
    (source / "annotations" / "instances_val2014.json").unlink()
    with pytest.raises(NotThisDatasetError, match=r"Its annotations/ holds instances_train2017\.json"):
        read_coco(source)


def test_ids_that_do_not_fit_together_are_faults(source: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["images"].append(dict(content["images"][0]))
        content["annotations"].append({"image_id": 5_000_000, "category_id": 1, "bbox": [0, 0, 1, 1]})
        content["annotations"].append({"image_id": content["images"][1]["id"], "category_id": 77, "bbox": [0, 0, 1, 1]})

    content = edit(source, spoil)
    coco = read_coco(source, images=True)
    first, second = content["images"][0]["id"], content["images"][1]["id"]
    assert [(fault.id, fault.why) for fault in coco.faults] == [
        (str(first), f"image {first} is listed more than once"),
        (None, "image 5000000 has annotations, but is not among the images"),
        (str(second), f"image {second} has an annotation of category 77, which is not among the categories"),
    ]
    assert len(coco.phases["train"]) == 12


def test_a_missing_image_is_a_fault_unless_nothing_is_annotated_in_it(source: Path) -> None:
    content = json.loads(train_json(source).read_text())
    with_, without = content["images"][0], content["images"][-1]
    for image in (with_, without):
        (source / "train2014" / image["file_name"]).unlink()
    assert [fault.id for fault in read_coco(source, images=True).faults] == [str(with_["id"])]
    assert read_coco(source, images=False).faults == ()


def test_a_path_that_leaves_the_folder_is_a_fault(source: Path) -> None:
    edit(source, lambda content: content["images"][0].update(file_name="../../secret.jpg"))
    assert "must be inside the dataset's folder" in faults(read_coco(source, images=True))[0]
