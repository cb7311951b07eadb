"""Small folders in the real layouts of the datasets: a few tiny JPEGs with drawn objects and the label files that say
what they are.

The same arguments give the same bytes. Object *k* of a class is a rectangle in that class's colour, so that a model can
learn it and a box can be checked against the picture.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
COCO_CATEGORIES = {
    1: "person",
    2: "bicycle",
    90: "toothbrush",
    18: "dog",
    17: "cat",
    44: "bottle",
}  # not in the order of the ids
NUS_CONCEPTS = tuple(f"concept{number:02d}" for number in range(81))
CUB_ATTRIBUTES = tuple(f"has_part_{number // 8:02d}::value_{number % 8}" for number in range(312))
CUB_PARTS = ("back", "beak", "belly", "breast", "crown")
L48_SPECIES = ("amerob", "bkcchi", "houfin", "norcar")
L48_SIZE = (750, 236)
FOLDER_CLASSES = ("cat", "dog", "mug", "plant")
WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Drawn:
    """One object of a picture: its class and its box in px, counted from 0, right and bottom exclusive."""

    label: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.right, self.bottom


def make_voc(folder: Path, *, num_train: int = 12, num_test: int = 6, images: bool = True) -> Path:
    """Lay out VOC 2012 as its devkit does; the first image of each phase also has a difficult cow, which is no
    positive.

    Returns:
        ``folder``, which holds ``VOCdevkit/VOC2012``.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(12)
    for phase, first, count in (("train", 0, num_train), ("val", num_train, num_test)):
        ids = [f"2008_{number:06d}" for number in range(first, first + count)]
        scenes = [_scene(rng, len(VOC_CLASSES)) for _ in ids]
        cow = VOC_CLASSES.index("cow")
        values = _matrix(scenes, len(VOC_CLASSES)).astype(int) * 2 - 1
        values[0, cow] = max(values[0, cow], 0)
        (lists / f"{phase}.txt").write_text("".join(f"{name}\n" for name in ids))
        for column, name in enumerate(VOC_CLASSES):
            (lists / f"{name}_{phase}.txt").write_text(
                "".join(f"{i} {v:2d}\n" for i, v in zip(ids, values[:, column], strict=True))
            )
        for row, (name, scene) in enumerate(zip(ids, scenes, strict=True)):
            _write_text(root / "Annotations" / f"{name}.xml", _voc_xml(name, scene, difficult_cow=row == 0))
            if images:
                _write_picture(root / "JPEGImages" / f"{name}.jpg", scene)
    return folder


def _voc_xml(name: str, scene: Sequence[Drawn], difficult_cow: bool) -> str:
    objects = [(VOC_CLASSES[drawn.label], drawn.box, 0) for drawn in scene]
    if difficult_cow:
        objects.append(("cow", (0, 0, 6, 6), 1))
    # VOC counts pixels from 1 and its right and bottom are inclusive.
    parts = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>\n"
        for label, (left, top, right, bottom), difficult in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename>{size}\n{parts}</annotation>\n"


def make_coco(folder: Path, *, num_train: int = 12, num_test: int = 6, images: bool = True) -> Path:
    """Lay out COCO 2014; each phase has one image more, in which nothing is annotated, and its last annotated one only
    a crowd.
    """
    rng = np.random.default_rng(14)
    for phase, first, count in (("train", 9, num_train), ("val", 11, num_test)):
        # Sorted as strings these ids come in another order than sorted as numbers.
        ids = [int(number) for number in rng.permutation(np.arange(first, first + 37 * (count + 1), 37))]
        scenes = [_scene(rng, len(COCO_CATEGORIES)) for _ in ids[:count]]
        files = [f"COCO_{phase}2014_{number:012d}.jpg" for number in ids]
        _write_text(folder / "annotations" / f"instances_{phase}2014.json", json.dumps(_coco_json(ids, files, scenes)))
        if images:
            for file, scene in zip(files, [*scenes, []], strict=True):
                _write_picture(folder / f"{phase}2014" / file, scene)
    return folder


def _coco_json(ids: Sequence[int], files: Sequence[str], scenes: Sequence[Sequence[Drawn]]) -> dict[str, Any]:
    numbers = list(COCO_CATEGORIES)
    annotations = [
        {
            "segmentation": {"counts": [1, 2], "size": [HEIGHT, WIDTH]}
            if crowd
            else [[drawn.left, drawn.top, drawn.right, drawn.bottom]],
            "area": 1.5,
            "iscrowd": int(crowd),
            "image_id": number,
            "bbox": [drawn.left, drawn.top, drawn.right - drawn.left, drawn.bottom - drawn.top],
            "category_id": numbers[drawn.label],
        }
        for number, scene, crowd in zip(ids, scenes, [False] * (len(scenes) - 1) + [True], strict=False)
        for drawn in scene
    ]
    return {
        "info": {"description": "drawn", "year": 2014},
        "images": [
            {"license": 1, "file_name": file, "height": HEIGHT, "width": WIDTH, "id": number}
            for number, file in zip(ids, files, strict=True)
        ],
        "licenses": [],
        "annotations": [{**annotation, "id": count} for count, annotation in enumerate(annotations, 1)],
        "categories": [
            {"supercategory": "thing", "id": number, "name": name} for number, name in COCO_CATEGORIES.items()
        ],
    }


def make_nuswide(
    folder: Path,
    *,
    layout: Literal["formatted", "official"] = "formatted",
    num_train: int = 20,
    num_test: int = 10,
    images: bool = True,
) -> Path:
    """Lay out NUS-WIDE as the lists of the literature or as its own files; every fifth image has no label."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(81)
    for phase, count in (("train", num_train), ("val", num_test)):
        scenes = [[] if row % 5 == 4 else _scene(rng, len(NUS_CONCEPTS)) for row in range(count)]
        files = [f"{NUS_CONCEPTS[row % 7]}/{row:04d}_{phase}{row * 7919}.jpg" for row in range(count)]
        labels = _matrix(scenes, len(NUS_CONCEPTS))
        if layout == "formatted":
            np.save(folder / f"formatted_{phase}_images.npy", np.array(files))
            np.save(folder / f"formatted_{phase}_labels.npy", labels.astype(np.float64))
        else:
            _write_official_nuswide(folder, "Train" if phase == "train" else "Test", files, labels)
        if images:
            for file, scene in zip(files, scenes, strict=True):
                _write_picture(folder / "Flickr" / file, scene)
    return folder


def _write_official_nuswide(folder: Path, phase: str, files: Sequence[str], labels: NDArray[np.bool_]) -> None:
    windows = "".join(file.replace("/", "\\") + "\r\n" for file in files)
    _write_text(folder / "ImageList" / f"{phase}Imagelist.txt", windows)
    _append_text(folder / "ImageList" / "Imagelist.txt", windows)
    _write_text(folder / "ConceptsList" / "Concepts81.txt", "".join(f"{name}\n" for name in NUS_CONCEPTS))
    for column, name in enumerate(NUS_CONCEPTS):
        text = "".join(f"{int(value)}\n" for value in labels[:, column])
        _write_text(folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{name}_{phase}.txt", text)
        _append_text(folder / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt", text)


def make_cub(folder: Path, *, num_train: int = 8, num_test: int = 4, images: bool = True) -> Path:
    """Lay out CUB-200-2011 as its archive does, ``attributes.txt`` above the folder; every 50th attribute line has two
    columns more.
    """
    root = folder / "CUB_200_2011"
    rng = np.random.default_rng(200)
    count = num_train + num_test
    is_train = rng.permutation(np.arange(count) < num_train)
    files = [f"{row % 3 + 1:03d}.Bird_{row % 3}/Bird_{row:04d}_{row * 31}.jpg" for row in range(count)]
    present = rng.random((count, len(CUB_ATTRIBUTES))) < 0.1
    present[:, 0] |= ~present.any(1)
    extra = np.arange(count * len(CUB_ATTRIBUTES)).reshape(present.shape) % 50 == 49
    attribute_lines = [
        f"{row + 1} {column + 1} {int(present[row, column])} {1 + (row + column) % 4} "
        f"{'0 3 ' if extra[row, column] else ''}{row % 9}.25\n"
        for row in range(count)
        for column in range(len(CUB_ATTRIBUTES))
    ]
    _write_lines(folder / "attributes.txt", CUB_ATTRIBUTES)
    _write_text(root / "attributes" / "image_attribute_labels.txt", "".join(attribute_lines))
    _write_lines(root / "images.txt", files)
    _write_lines(root / "train_test_split.txt", [str(int(train)) for train in is_train])
    _write_lines(root / "bounding_boxes.txt", ["4.0 6.0 40.0 30.0"] * count)
    _write_lines(root / "parts" / "parts.txt", CUB_PARTS)
    _write_text(root / "parts" / "part_locs.txt", "".join(_part_locations(row) for row in range(count)))
    if images:
        for row, file in enumerate(files):
            _write_picture(root / "images" / file, [Drawn(row % 3, 4, 6, 44, 36)])
    return folder


def _part_locations(row: int) -> str:
    """Return the lines of an image's parts; one of them is not visible, and lies at 0, 0 as in the real file."""
    return "".join(
        f"{row + 1} {part + 1} 0.0 0.0 0\n"
        if part == row % len(CUB_PARTS)
        else f"{row + 1} {part + 1} {8.0 + 5 * part} {10.0 + 3 * part} 1\n"
        for part in range(len(CUB_PARTS))
    )


def make_l48(folder: Path, *, num_train: int = 3, num_test: int = 1, val: bool = False, images: bool = True) -> Path:
    """Lay out Merlin L48 with four species, each the target of ``num_train`` and ``num_test`` recordings.

    Each has three clips: one with the target and the next species, one with the next species alone, and one that nobody
    annotated. Its range list lacks one species, its checklist two. With ``val``, ``val_split.npy`` has the first
    recording of each species.
    """
    assets: list[dict[str, Any]] = []
    clips: list[dict[str, Any]] = []
    for target, code in enumerate(L48_SPECIES):
        species = [L48_SPECIES[(target + step) % 4] for step in range(4)]
        for number in range(num_train + num_test):
            asset = len(assets) + (8000 if number >= num_train else 0)
            assets.append(
                {
                    "id": asset,
                    "split": "test" if number >= num_train else "train",
                    "target_species_code": code,
                    "possible_species_codes": [*species[:3], "elsewh"],
                    "observed_species_codes": species[:2],
                }
            )
            for order, present in enumerate((species[:2], species[1:2], [])):
                unknown = [] if present else species[:3]
                scene = [
                    Drawn(L48_SPECIES.index(name), 90 + 400 * place, 40, 290 + 400 * place, 180)
                    for place, name in enumerate(present)
                ]
                clips.append(_l48_clip(len(clips), asset, order, present, unknown, scene))
                if images:
                    _write_picture(folder / clips[-1]["file_path"], scene, L48_SIZE)
    _write_text(folder / "assets.json", json.dumps(assets))
    _write_text(folder / "clips.json", json.dumps(clips))
    _write_text(folder / "taxa.csv", "species_code,common_name\n" + "".join(f"{code},x\n" for code in L48_SPECIES))
    if val:
        of_target = {asset["target_species_code"]: asset["id"] for asset in reversed(assets) if asset["id"] < 8000}
        np.save(folder / "val_split.npy", np.array(sorted(of_target.values())))
    return folder


def _l48_clip(
    id: int, asset: int, order: int, present: Sequence[str], unknown: Sequence[str], scene: Sequence[Drawn]
) -> dict[str, Any]:
    width, height = L48_SIZE
    boxes = [
        {
            "id": number,
            "species_code": L48_SPECIES[drawn.label],
            "status": "active",
            "bbox": [drawn.left / width, drawn.top / height, drawn.right / width, drawn.bottom / height],
        }
        for number, drawn in enumerate(scene)
    ]
    ignored = {"id": len(boxes), "species_code": L48_SPECIES[0], "status": "ignore", "bbox": [0.9, 0.1, 1.0, 0.2]}
    return {
        "id": id,
        "asset_id": asset,
        "clip_order": order,
        "file_path": f"images/{asset}/{order}.jpg",
        "width": width,
        "height": height,
        "present_species_codes": list(present),
        "unknown_species_codes": list(unknown),
        "absent_species_codes": [code for code in L48_SPECIES if code not in (*present, *unknown)],
        "boxes": [*boxes, ignored],
    }


def make_folder(
    folder: Path,
    *,
    num_train: int = 24,
    num_val: int = 0,
    num_test: int = 8,
    observed_only: bool | Collection[str] = (),
    form: Literal["columns", "list"] = "columns",
    suffix: Literal["csv", "parquet"] = "csv",
    splits: Literal["column", "files", "drawn"] = "column",
    images: bool = True,
) -> Path:
    """Lay out a user's own data: ``images/`` and ``labels.csv`` (true labels) and/or ``observed.csv`` (observed labels
    alone).

    Args:
        folder: What is made.
        num_train: Images of train; with ``num_val`` 0 the validation images are drawn from them.
        num_val: Images of val.
        num_test: Images of test.
        observed_only: Splits of which only one positive per image is known; True: train and val.
        form: A column per class, or one list column.
        suffix: Form of the tables.
        splits: A ``split`` column, files ``train.txt`` and so on, or none: drawn when read.
        images: Whether the JPEGs are written too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    hidden = ("train", "val") if observed_only is True else (observed_only or ())
    tables: dict[str, list[dict[str, object]]] = {"labels": [], "observed": []}
    for split, count in (("train", num_train), ("val", num_val), ("test", num_test)):
        files = [f"{split}/{row:03d}.jpg" for row in range(count)]
        scenes = [_scene(rng, len(FOLDER_CLASSES)) for _ in files]
        for file, scene in zip(files, scenes, strict=True):
            seen = scene[:1] if split in hidden else scene
            row = {
                "image": file,
                **({"split": split} if splits == "column" else {}),
                **_folder_labels(seen, form, suffix),
            }
            tables["observed" if split in hidden else "labels"].append(row)
            if images:
                _write_picture(folder / "images" / file, scene)
        if splits == "files" and count:
            _write_text(folder / f"{split}.txt", "".join(f"{file}\n" for file in files))
    for name, rows in tables.items():
        if rows:
            table, path = pa.Table.from_pylist(rows), folder / f"{name}.{suffix}"
            pq.write_table(table, path) if suffix == "parquet" else pyarrow.csv.write_csv(table, path)
    return folder


def _folder_labels(scene: Sequence[Drawn], form: str, suffix: str) -> dict[str, object]:
    names = sorted({FOLDER_CLASSES[drawn.label] for drawn in scene})
    if form == "columns":
        return {name: int(name in names) for name in FOLDER_CLASSES}
    return {"labels": names if suffix == "parquet" else ";".join(names)}


def _scene(rng: np.random.Generator, num_classes: int) -> list[Drawn]:
    """Draw one to three objects, each in its own third of the picture."""
    labels = rng.choice(num_classes, size=int(rng.integers(1, 4)), replace=False)
    third = WIDTH // 3
    scene = []
    for place, label in enumerate(labels):
        left, top = place * third + int(rng.integers(0, 6)), int(rng.integers(0, 16))
        scene.append(Drawn(int(label), left, top, left + int(rng.integers(9, 15)), top + int(rng.integers(16, 32))))
    return scene


def _matrix(scenes: Sequence[Sequence[Drawn]], num_classes: int) -> NDArray[np.bool_]:
    matrix = np.zeros((len(scenes), num_classes), bool)
    for row, scene in enumerate(scenes):
        matrix[row, [drawn.label for drawn in scene]] = True
    return matrix


def _write_picture(path: Path, scene: Sequence[Drawn], size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    image = Image.new("RGB", size, (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for drawn in scene:
        hue = colorsys.hsv_to_rgb(drawn.label * 0.618 % 1, 1, 0.9)
        draw.rectangle(
            (drawn.left, drawn.top, drawn.right - 1, drawn.bottom - 1), fill=tuple(int(255 * part) for part in hue)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95, subsampling=0)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def _append_text(path: Path, text: str) -> None:
    _write_text(path, (path.read_bytes().decode() if path.exists() else "") + text)


def _write_lines(path: Path, values: Sequence[str]) -> None:
    """Write CUB's kind of list: a number from 1, a space, a value."""
    _write_text(path, "".join(f"{number} {value}\n" for number, value in enumerate(values, 1)))
