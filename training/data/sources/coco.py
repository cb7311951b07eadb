"""Read MS COCO 2014 from its unpacked archives.

They hold ``annotations/instances_{train,val}2014.json``, ``train2014/`` and ``val2014/``. Only images with at least one
annotation (a crowd counts) are in the dataset, with ids sorted as strings and label columns in the order of the JSON's
category list; official val is the test set (Cole et al., CVPR 2021).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from numpy.typing import NDArray

from training.data.sources.annotations import Annotations, Phase, some
from training.data.sources.label_files import LabelFiles, describe, find_root, group_rows
from training.errors import NotThisDatasetError

LAYOUT = "instances_{train,val}2014.json"
_PHASES = {"train": "train2014", "test": "val2014"}
_SCHEMA = pa.schema(
    {
        "images": pa.list_(pa.struct({"id": pa.int64(), "file_name": pa.string()})),
        "annotations": pa.list_(
            pa.struct({"image_id": pa.int64(), "category_id": pa.int64(), "bbox": pa.list_(pa.float64())})
        ),
        "categories": pa.list_(pa.struct({"id": pa.int64(), "name": pa.string()})),
    }
)


@dataclass(frozen=True)
class _Instances:
    """The required fields of one JSON: I images, A annotations, C categories."""

    path: Path
    image_ids: NDArray[np.int64]
    file_names: pa.StringArray
    annotated: NDArray[np.int64]
    labels: NDArray[np.int64]
    bbox: pa.ListArray
    categories: dict[int, str]


def read_coco(source: Path, *, images: bool = False) -> Annotations:
    """Read COCO 2014.

    Args:
        source: The folder that holds ``annotations/`` or one above it, or ``annotations/`` itself.
        images: Whether to look for the images and read boxes; if not, the two JSONs are enough.

    Raises:
        NotThisDatasetError: The folder holds something else, or COCO of another year.
    """
    files = LabelFiles(find_coco(source))
    read = {
        phase: _read_json(files, files.root / "annotations" / f"instances_{name}.json")
        for phase, name in _PHASES.items()
    }
    # Those of val if the training JSON cannot be read: then one run still finds the faults of both.
    categories = next((instances.categories for instances in read.values() if instances), {})
    phases, num_unlabelled = {}, {}
    for phase, instances in read.items():
        if instances is None:
            phases[phase] = Phase((), (), np.zeros((0, len(categories)), bool))
            continue
        if list(instances.categories.items()) != list(categories.items()):
            files.fault(instances.path, "has different categories from the training JSON, or another order of them")
        phases[phase], num_unlabelled[phase] = _phase(files, instances, list(categories), _PHASES[phase], images)
    if images:
        phases = files.check_images(phases)
    return files.annotations("coco", LAYOUT, list(categories.values()), phases, num_unlabelled=num_unlabelled)


def find_coco(source: Path) -> Path:
    """Return the folder that holds ``annotations/``.

    Raises:
        NotThisDatasetError: No such folder was found, or its JSONs are of another year.
    """
    source = source.resolve().parent if source.name == "annotations" else source
    wanted = f"annotations/{LAYOUT}"
    # COCO of any year is found here, so that the message below can say that it is the wrong one.
    root = find_root(source, "COCO 2014", wanted, lambda folder: any((folder / "annotations").glob("instances_*.json")))
    if not any((root / "annotations" / f"instances_{name}.json").exists() for name in _PHASES.values()):
        raise NotThisDatasetError(
            f"--source={source} is not COCO 2014: no {wanted} in it. Its annotations/ holds "
            f"{describe(root / 'annotations')}"
        )
    return root


def _read_json(files: LabelFiles, path: Path) -> _Instances | None:
    content = files.read(path)
    if content is None:
        return None
    try:
        # Arrow reads only these fields and skips the outlines: a fifth of the time and a quarter of the memory of json.
        table = pyarrow.json.read_json(
            pa.BufferReader(content),
            read_options=pyarrow.json.ReadOptions(
                block_size=len(content) + 1, use_threads=False
            ),  # a file is one JSON value, so one block
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=_SCHEMA, newlines_in_values=True, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid as error:
        _explain(files, path, content, str(error))
        return None
    # The JSON is one row of three lists; flattened, each list becomes the rows of a table.
    columns = {name: table[name].combine_chunks().flatten() for name in _SCHEMA.names}
    empty = [name for name in ("images", "categories") if not len(columns[name])]
    # A box may be missing: without images none is needed, and with them _boxes names the image.
    fields = [(name, field.name) for name, rows in columns.items() for field in rows.type if field.name != "bbox"]
    missing = [f"{name}.{field}" for name, field in fields if columns[name].field(field).null_count]
    if empty or missing:
        files.fault(path, f"has no {some(empty)}" if empty else f"has entries without {some(missing)}", fatal=True)
        return None
    return _instances(files, path, columns)


def _explain(files: LabelFiles, path: Path, content: bytes, message: str) -> None:
    """Note why Arrow cannot read a JSON, with the position where it breaks off."""
    try:
        # Parsed a second time, because Arrow does not say where it stopped.
        json.loads(content)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} (character {error.pos:,} of {len(content):,})"
        files.fault(
            path,
            f"is not complete JSON: {error.msg.removesuffix(' starting at')} at {where}. Unpack or download it again",
            error.lineno,
            fatal=True,
        )
    except (UnicodeDecodeError, RecursionError) as error:
        files.fault(path, f"is not JSON: {error}", fatal=True)
    else:
        files.fault(path, f"does not hold COCO instances: {message}", fatal=True)


def _instances(files: LabelFiles, path: Path, columns: dict[str, pa.StructArray]) -> _Instances:
    images, annotations, categories = (columns[name] for name in _SCHEMA.names)
    # Sorted by np.unique, so that searchsorted finds them below.
    ids, first, counts = np.unique(images.field("id").to_numpy(), return_index=True, return_counts=True)
    for id in ids[counts > 1].tolist():
        files.fault(path, f"image {id} is listed more than once", id=str(id))
    numbers, names = categories.field("id").to_pylist(), categories.field("name").to_pylist()
    if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
        files.fault(path, "its categories are not unique", fatal=True)
    return _Instances(
        path,
        ids,
        images.field("file_name").take(pa.array(first)),
        annotations.field("image_id").to_numpy(),
        annotations.field("category_id").to_numpy(),
        annotations.field("bbox"),
        dict(zip(numbers, names, strict=True)),
    )


def _phase(
    files: LabelFiles, instances: _Instances, categories: list[int], folder: str, with_boxes: bool
) -> tuple[Phase, int]:
    """Return a phase, and the number of its images without annotations."""
    known = _known(files, instances, categories)
    annotated, labels = instances.annotated[known], instances.labels[known]
    # Sorted as text, as in the released preprocessing: 1000 comes before 9. Split and draw depend on this order.
    ids = np.array(sorted(np.unique(annotated).tolist(), key=str), np.int64)
    by_id = np.argsort(ids)  # searchsorted needs them by number
    rows = by_id[np.searchsorted(ids, annotated, sorter=by_id)] if len(ids) else annotated
    # COCO numbers its 80 categories from 1 to 90, with gaps.
    column_of = {number: column for column, number in enumerate(categories)}
    columns = np.array([column_of[number] for number in labels.tolist()], np.int64)
    true = np.zeros((len(ids), len(categories)), bool)
    true[rows, columns] = True
    boxes = _boxes(files, instances, known, rows, columns, ids) if with_boxes else None
    # Some copies keep the image folders below images/.
    place = (
        folder
        if (files.root / folder).is_dir() or not (files.root / "images" / folder).is_dir()
        else f"images/{folder}"
    )
    # All are found: _known has dropped the annotations of images that are not listed.
    names = instances.file_names.take(pa.array(np.searchsorted(instances.image_ids, ids))).to_pylist()
    phase = Phase(tuple(str(id) for id in ids.tolist()), tuple(f"{place}/{name}" for name in names), true, boxes=boxes)
    return phase, len(instances.image_ids) - len(ids)


def _known(files: LabelFiles, instances: _Instances, categories: list[int]) -> NDArray[np.bool_]:
    """Return which annotations belong to a known image and a known category; note the others as faults."""
    of_image = np.isin(instances.annotated, instances.image_ids)
    of_category = np.isin(instances.labels, np.array(categories, np.int64))
    for id in np.unique(instances.annotated[~of_image]).tolist():
        files.fault(instances.path, f"image {id} has annotations, but is not among the images")
    for id, number in sorted(
        set(zip(instances.annotated[~of_category].tolist(), instances.labels[~of_category].tolist(), strict=True))
    ):
        files.fault(
            instances.path,
            f"image {id} has an annotation of category {number}, which is not among the categories",
            id=str(id),
        )
    known: NDArray[np.bool_] = of_image & of_category
    return known


def _boxes(
    files: LabelFiles,
    instances: _Instances,
    known: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.float32], ...]:
    """Return (M, 5) for each image, from COCO's left, top, width and height; boxes without area are left out."""
    bbox = instances.bbox.filter(pa.array(known))
    # Checked before flatten, because a short box would shift all later boxes.
    whole = pc.list_value_length(bbox).fill_null(0).to_numpy(zero_copy_only=False) == 4
    for id in np.unique(ids[rows[~whole]]).tolist():
        files.fault(instances.path, f"image {id} has a box that is not left, top, width and height", id=str(id))
    corners = bbox.filter(pa.array(whole)).flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    boxes = np.concatenate([columns[whole, None], corners], axis=1).astype(np.float32)
    solid = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return group_rows(rows[whole][solid], boxes[solid], len(ids))
