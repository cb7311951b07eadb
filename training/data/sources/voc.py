"""PASCAL VOC 2012 as its devkit lies on disk.

``ImageSets/Main/<class>_{train,val}.txt`` say 1, 0 (all objects of the class are difficult) or -1; 1 alone is a
positive. Official train is what the split is drawn from, official val is the test set, and images are sorted by name,
as the literature's preprocessing does (Cole et al., CVPR 2021). An image without any positive would be left out, as
there; the real lists have none.
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
        images: Whether images must be there, and boxes are read from ``Annotations/``; else ``ImageSets/Main`` is all
            that is needed.

    Raises:
        NotThisDatasetError: It is another folder, or the devkit of another year.
    """
    files = LabelFiles(find_voc(source))
    lists = {phase: files.unique_lines(files.root / _LISTS / f"{official}.txt") for phase, official in _PHASES.items()}
    _check_year(files.root, source, [id for listed in lists.values() for id in listed])
    phases, num_unlabelled = {}, {}
    for phase, official in _PHASES.items():
        ids = sorted(lists[phase])
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
            files.check_images(phases[phase])
    if images:
        phases = _with_boxes(files, phases)
    return files.annotations("voc", LAYOUT, CLASSES, phases, num_unlabelled=num_unlabelled)


def find_voc(source: Path) -> Path:
    """Return the folder that holds ``ImageSets/Main``; beside other years, that of 2012.

    Raises:
        NotThisDatasetError: There is none.
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
    # 2007 numbers its images without a year, and is often moved to another folder.
    if year == "2012" and ids and all(re.fullmatch(r"\d{6}", id) for id in ids):
        year = "2007"
    if year != "2012":
        raise NotThisDatasetError(
            f"--source must be the devkit of VOC 2012, but got --source={source}, whose {root.name} is VOC {year}. "
            "Its 2012 images are in VOCtrainval_11-May-2012.tar"
        )


def _read_class(
    files: LabelFiles, path: Path, against: str, listed: dict[str, int], ids: list[str]
) -> NDArray[np.bool_]:
    """Return bool (N,), True where a class's list says 1; what it and the phase's own list do not
    agree on is a fault.
    """
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
    ours, theirs = ([id for id in order if id in other] for order, other in ((values, listed), (listed, values)))
    for number, (id, expected) in enumerate(zip(ours, theirs, strict=True), 1):
        if id != expected:
            files.fault(
                path, f"its images are not in the order of {against}: {id} stands where {expected} should", number
            )
            break
    return np.array([values.get(id) == "1" for id in ids], bool)


def _with_boxes(files: LabelFiles, phases: dict[str, Phase]) -> dict[str, Phase]:
    folder = files.root / "Annotations"
    if not folder.is_dir():
        files.notes.append("there is no Annotations folder: the objects' boxes are unknown")
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
    """Return (M, 5) of the image's objects, without difficult ones and those of a class that the lists do not call
    positive.
    """
    assert phase.true is not None
    path, id = folder / f"{phase.ids[row]}.xml", phase.ids[row]
    boxes: list[tuple[float, ...]] = []
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError("it declares entities, which no annotation of VOC does")
        for found in ElementTree.fromstring(content).iterfind("object"):
            name = (found.findtext("name") or "").strip()
            if (
                name not in CLASSES
                or (found.findtext("difficult") or "0").strip() == "1"
                or not phase.true[row, CLASSES.index(name)]
            ):
                continue
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
