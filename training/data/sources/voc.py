"""Read PASCAL VOC 2012 from its devkit.

``ImageSets/Main/<class>_{train,val}.txt`` say 1, 0 (all objects of the class are difficult) or -1; only 1 is positive.
The split is drawn from official train, official val is the test set, and images are sorted by name, as in the
literature's preprocessing (Cole et al., CVPR 2021). As there, images without any positive are left out; the real lists
have none.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from training.data.sources.annotations import Annotations, Phase
from training.data.sources.label_files import LabelFiles, find_root
from training.errors import NotThisDatasetError

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
LAYOUT = "devkit, ImageSets/Main"
_PHASES = {"train": "train", "test": "val"}
_LISTS = Path("ImageSets", "Main")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(source: Path, *, images: bool = False) -> Annotations:
    """Read VOC 2012.

    Args:
        source: The folder that holds ``VOCdevkit/``, the devkit itself, or ``VOC2012/``.
        images: Whether to look for the images and read boxes from ``Annotations/``; without, ``ImageSets/Main`` is
            enough.

    Raises:
        NotThisDatasetError: The folder holds something else, or the devkit of another year.
    """
    files = LabelFiles(find_voc(source))
    lists = {phase: files.unique_lines(files.root / _LISTS / f"{official}.txt") for phase, official in _PHASES.items()}
    _check_year(files.root, source, [id for listed in lists.values() for id in listed])
    phases, num_unlabelled = {}, {}
    for phase, official in _PHASES.items():
        ids = sorted(lists[phase])  # the order that the literature's split and draw count by
        true = np.zeros((len(ids), len(CLASSES)), bool)
        for column, name in enumerate(CLASSES):
            true[:, column] = _read_class(
                files, files.root / _LISTS / f"{name}_{official}.txt", f"{official}.txt", lists[phase], ids
            )
        positive = np.flatnonzero(true.any(1))
        num_unlabelled[phase] = len(ids) - len(positive)
        kept = tuple(ids[row] for row in positive)
        phases[phase] = Phase(kept, tuple(f"JPEGImages/{id}.jpg" for id in kept), true[positive])
    if images:
        phases = _with_boxes(files, files.check_images(phases))
    return files.annotations("voc", LAYOUT, CLASSES, phases, num_unlabelled=num_unlabelled)


def find_voc(source: Path) -> Path:
    """Return the folder that holds ``ImageSets/Main``; among several years, that of 2012.

    Raises:
        NotThisDatasetError: No such folder was found.
    """
    for folder in (source / "VOCdevkit" / "VOC2012", source / "VOC2012"):
        if _holds_lists(folder):
            return folder
    return find_root(source, "VOC 2012", "ImageSets/Main/<class>_train.txt", _holds_lists)


def _holds_lists(folder: Path) -> bool:
    return any((folder / _LISTS / f"{name}_{phase}.txt").exists() for name in CLASSES for phase in _PHASES.values())


def _check_year(root: Path, source: Path, ids: list[str]) -> None:
    by_name = re.fullmatch(r"VOC(20\d\d)", root.resolve().name)
    year = by_name[1] if by_name else "2012"
    # VOC 2007 numbers its images without a year, and is often found in a folder of another name.
    if year == "2012" and ids and all(re.fullmatch(r"\d{6}", id) for id in ids):
        year = "2007"
    if year != "2012":
        raise NotThisDatasetError(
            f"--source must be the devkit of VOC 2012, but {root.name} in {source} is VOC {year}. "
            "VOC 2012 is in VOCtrainval_11-May-2012.tar"
        )


def _read_class(
    files: LabelFiles, path: Path, against: str, listed: dict[str, int], ids: list[str]
) -> NDArray[np.bool_]:
    """Return bool (N,), True where a class's list says 1; it must list the same images as the phase's own list."""
    values: dict[str, str] = {}
    lines = files.lines(path)
    if lines is None:
        return np.zeros(len(ids), bool)
    for number, line in enumerate(lines, 1):
        id, value = (*line.split(), "", "")[:2]
        if len(line.split()) != 2 or value not in ("-1", "0", "1"):
            files.fault(
                path, f"a line must be an image and 1, 0 or -1, but is {line!r}", number, id if id in listed else None
            )
        elif id not in listed:
            files.fault(path, f"{id} is not in {against}", number)
        elif id in values:
            files.fault(path, f"{id} is listed twice", number, id)
        values.setdefault(id, value)
    for id in ids:
        if id not in values:
            files.fault(path, f"{id} of {against} has no line", id=id)
    # Compare only what both lists contain: the first difference is then a wrong order.
    ours, theirs = ([id for id in order if id in other] for order, other in ((values, listed), (listed, values)))
    for number, (id, expected) in enumerate(zip(ours, theirs, strict=True), 1):
        if id != expected:
            files.fault(path, f"lists {id} where {against} lists {expected}: both must have the same order", number)
            break
    return np.array([values.get(id) == "1" for id in ids], bool)


def _with_boxes(files: LabelFiles, phases: dict[str, Phase]) -> dict[str, Phase]:
    folder = files.root / "Annotations"
    if not folder.is_dir():
        files.notes.append("no folder Annotations/, so the boxes of the objects are unknown")
        return phases
    return {
        name: Phase(
            phase.ids,
            phase.files,
            phase.true,
            boxes=tuple(_read_boxes(files, folder, phase, row) for row in range(len(phase))),
        )
        for name, phase in phases.items()
    }


def _read_boxes(files: LabelFiles, folder: Path, phase: Phase, row: int) -> NDArray[np.float32]:
    """Return (M, 5) of an image's objects, except difficult ones and classes that are not positive in the lists."""
    assert phase.true is not None
    path, id = folder / f"{phase.ids[row]}.xml", phase.ids[row]
    boxes: list[tuple[float, ...]] = []
    try:
        content = path.read_bytes()
        # Entities could read files or fill the memory, and ElementTree expands them.
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError("declares entities, which no annotation of VOC does")
        for found in ElementTree.fromstring(content).iterfind("object"):
            name = (found.findtext("name") or "").strip()
            if (
                name not in CLASSES
                or (found.findtext("difficult") or "0").strip() == "1"
                or not phase.true[row, CLASSES.index(name)]
            ):
                continue
            # A missing side becomes nan, which the comparison below rejects.
            left, top, right, bottom = (float(found.findtext(f"bndbox/{side}") or "nan") for side in _SIDES)
            if not (left <= right and top <= bottom):
                raise ValueError(
                    f"the box of a {name} must have xmin <= xmax and ymin <= ymax, but is {left:g} {top:g} {right:g} "
                    f"{bottom:g}"
                )
            # VOC counts pixels from 1, and its right and bottom are inclusive.
            boxes.append((CLASSES.index(name), left - 1, top - 1, right, bottom))
    except FileNotFoundError:
        files.fault(path, "is missing", id=id)
    except OSError as error:
        files.fault(path, f"cannot be read: {error.strerror}", id=id)
    except ElementTree.ParseError as error:
        files.fault(path, f"is not XML: {error}", error.position[0], id)
    except ValueError as error:
        files.fault(path, str(error), id=id)
    return np.array(boxes, np.float32).reshape(-1, 5)
