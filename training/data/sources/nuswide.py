"""Read NUS-WIDE in either of its two layouts, which are different sets of images; every report names the one read.

``formatted``: the four ``.npy`` lists of the SPML literature (Cole et al., CVPR 2021: 150,000 and 60,260 images from
a crawl in 2020), whose ``val`` is the test set. ``official``: ``ImageList/`` and ``Groundtruth/`` of the dataset's own
site. In both, rows without any label (a fifth) are kept, and rows stay in the order of the lists.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.counts import counted
from training.data.sources.annotations import Annotations, Phase
from training.data.sources.label_files import LabelFiles, find_root

FORMATTED = "formatted_{train,val}_{images,labels}.npy, the lists of the SPML literature"
OFFICIAL = "Groundtruth/ and ImageList/, the dataset's own files"
_CONCEPTS = (Path("ConceptsList", "Concepts81.txt"), Path("Concepts81.txt"))
_IMAGE_FOLDERS = ("Flickr", "images")
_ONE, _ZERO, _NEWLINE = b"10\n"


def read_nuswide(source: Path, *, images: bool = False) -> Annotations:
    """Read NUS-WIDE; if a folder holds both layouts, read the lists of the literature and note that.

    Args:
        source: The folder that holds the lists or the label folders, or one above it.
        images: Whether to look for the images, in ``Flickr/``, ``images/`` or next to the lists.

    Raises:
        NotThisDatasetError: The folder holds something else.
    """
    files = LabelFiles(find_nuswide(source))
    formatted = _holds_formatted(files.root)
    if formatted and _holds_official(files.root):
        files.notes.append(
            "the dataset's own Groundtruth/ was not read: move the formatted_*.npy away to read it instead"
        )
    layout, classes, phases = _read_formatted(files) if formatted else _read_official(files)
    for phase, content in phases.items():
        num = 0 if content.true is None else int((~content.true.any(1)).sum())
        if num:
            share = f"{num:,} of {counted(len(content), 'image')}"
            files.notes.append(f"kept {share} of {phase} without any label, as in the literature")
    if images:
        phases = files.check_images(_find_flat(files, phases))
    return files.annotations("nuswide", layout, classes, phases)


def _find_flat(files: LabelFiles, phases: dict[str, Phase]) -> dict[str, Phase]:
    """Return the phases with the paths of images that lie in one folder, without the folders that the lists name."""
    listed = [Path(file) for phase in phases.values() for file in phase.files]
    # Nothing to leave out: these lists name no folder of a class.
    if not listed or listed[0].parent.name in ("", *_IMAGE_FOLDERS):
        return phases
    base = Path(listed[0].parts[0]) if listed[0].parts[0] in _IMAGE_FOLDERS else Path()
    names = {path.name for path in listed}
    try:
        found = {entry.name for entry in os.scandir(files.root / base)}
    except OSError:
        return phases
    # Flat only if images lie here and the folders that the lists name do not.
    if names.isdisjoint(found) or any(path.parent.name in found for path in listed):
        return phases
    if len(names) < len(listed):
        files.fault(files.root / base, "lies in one folder, but images of the lists have the same name", fatal=True)
        return phases
    files.notes.append(
        f"the images lie in {base}/ without the folders that the lists name, so they were found by their names"
    )
    return {
        name: replace(phase, files=tuple((base / Path(file).name).as_posix() for file in phase.files))
        for name, phase in phases.items()
    }


def find_nuswide(source: Path) -> Path:
    """Return the folder that holds the lists or the label folders.

    Raises:
        NotThisDatasetError: No such folder was found.
    """
    wanted = f"{FORMATTED}; or {OFFICIAL}"
    return find_root(source, "NUS-WIDE", wanted, lambda folder: _holds_formatted(folder) or _holds_official(folder))


def _holds_formatted(folder: Path) -> bool:
    # The same authors gave the lists of VOC, COCO and CUB the same names, but next to those datasets' own label files.
    others = ("VOCdevkit", "annotations", "CUB_200_2011")
    lists = [folder / f"formatted_{phase}_{what}.npy" for phase in ("train", "val") for what in ("images", "labels")]
    return any(path.exists() for path in lists) and not any((folder / other).exists() for other in others)


def _holds_official(folder: Path) -> bool:
    # One is enough: the message then names the other as missing, instead of saying that this is not NUS-WIDE.
    return (folder / "Groundtruth").is_dir() or (folder / "ImageList").is_dir()


def _read_formatted(files: LabelFiles) -> tuple[str, list[str], dict[str, Phase]]:
    arrays = {
        phase: [_read_npy(files, f"formatted_{phase}_{what}.npy") for what in ("images", "labels")]
        for phase in ("train", "val")
    }
    widths = [labels.shape[1] for _, labels in arrays.values() if labels is not None and labels.ndim == 2]
    classes = _class_names(files, widths[0] if widths else 0)
    phases = {}
    for phase, (names, labels) in zip(("train", "test"), arrays.values(), strict=True):
        official = "val" if phase == "test" else phase
        phases[phase] = _formatted_phase(
            files, files.root / f"formatted_{official}_labels.npy", names, labels, len(classes)
        )
    return FORMATTED, classes, phases


def _read_npy(files: LabelFiles, name: str) -> NDArray[np.generic] | None:
    content = files.read(files.root / name)
    if content is None:
        return None
    try:
        array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)  # a pickle could run any code
    except (ValueError, EOFError, OSError) as error:
        files.fault(files.root / name, f"cannot be read as a NumPy array without pickles: {error}", fatal=True)
        return None
    return array


def _class_names(files: LabelFiles, width: int) -> list[str]:
    """Return the names in Concepts81.txt, else numbers: the lists have no names, and their order is undocumented."""
    for path in (files.root / place for place in _CONCEPTS):
        if path.exists():
            names = list(files.unique_lines(path))
            if len(names) == width:
                return names
            files.fault(path, f"must have {width} names, one for each column of the lists, but has {len(names)}")
    files.notes.append(
        "the lists do not name their columns, so they are numbered; put Concepts81.txt next to them to name them"
    )
    return [f"concept_{number:02d}" for number in range(1, width + 1)]


def _formatted_phase(
    files: LabelFiles, path: Path, names: NDArray[np.generic] | None, labels: NDArray[np.generic] | None, width: int
) -> Phase:
    if names is None or labels is None:
        return _phase(files, path, [], np.zeros((0, width), bool))
    # NumPy's kinds: U is text; b, i, u and f are booleans, integers and floats.
    if names.ndim != 1 or names.dtype.kind != "U" or labels.ndim != 2 or labels.dtype.kind not in "biuf":
        found = f"{labels.dtype} {labels.shape} with {names.dtype} {names.shape}"
        files.fault(path, f"must be numbers (N, C) with N names, but is {found}", fatal=True)
        return _phase(files, path, [], np.zeros((0, width), bool))
    if labels.shape != (len(names), width):
        expected = f"{len(names):,} rows of {width} columns as the other lists do"
        files.fault(path, f"must have {expected}, but has the shape {labels.shape}", fatal=True)
    # What overlaps is read in spite of that fault, so that one run finds the others too.
    count = min(len(names), len(labels))
    true = np.zeros((count, width), bool)
    shared = min(width, labels.shape[1])
    true[:, :shared] = labels[:count, :shared] == 1
    # Some copies write negatives as -1.
    if bad := np.flatnonzero(~np.isin(labels, (-1, 0, 1)).all(1)).tolist():
        files.fault(path, f"{len(bad):,} rows have values other than 1 and 0; the first is row {bad[0]}", fatal=True)
    listed = path.with_name(path.name.replace("labels", "images"))
    return _phase(files, listed, [str(name).replace("\\", "/") for name in names[:count].tolist()], true)


def _read_official(files: LabelFiles) -> tuple[str, list[str], dict[str, Phase]]:
    groundtruth = files.root / "Groundtruth"
    # The site offers both; TrainTestLabels is already split as the lists of images are.
    by_phase, together = groundtruth / "TrainTestLabels", groundtruth / "AllLabels"
    lists = {phase: _image_list(files, f"{phase.title()}Imagelist.txt") for phase in ("train", "test")}
    if by_phase.is_dir() or not together.is_dir():
        classes = _concepts(files, by_phase, "_Train")
        labels = {
            phase: _columns(files, by_phase, classes, f"_{phase.title()}", len(names)) for phase, names in lists.items()
        }
        layout = f"{OFFICIAL} (TrainTestLabels)"
    else:
        classes = _concepts(files, together, "")
        everything = _image_list(files, "Imagelist.txt")
        labels = _rows_of(files, everything, lists, _columns(files, together, classes, "", len(everything)))
        layout = f"{OFFICIAL} (AllLabels)"
    return (
        layout,
        classes,
        {phase: _phase(files, _list_path(files, phase), names, labels[phase]) for phase, names in lists.items()},
    )


def _list_path(files: LabelFiles, phase: str) -> Path:
    return files.root / "ImageList" / f"{phase.title()}Imagelist.txt"


def _image_list(files: LabelFiles, name: str) -> list[str]:
    lines = files.lines(files.root / "ImageList" / name) or ()
    return [line.strip().replace("\\", "/") for line in lines if line.strip()]


def _concepts(files: LabelFiles, folder: Path, ending: str) -> list[str]:
    """Return the names in the order of Concepts81.txt, else in alphabetical order, which is the same."""
    for path in (files.root / place for place in _CONCEPTS):
        if path.exists():
            return list(files.unique_lines(path))
    names = sorted(
        path.stem.removeprefix("Labels_").removesuffix(ending) for path in folder.glob(f"Labels_*{ending}.txt")
    )
    if not names:
        files.fault(folder, f"holds no Labels_<concept>{ending}.txt", fatal=True)
    return names


def _columns(files: LabelFiles, folder: Path, classes: list[str], ending: str, count: int) -> NDArray[np.bool_]:
    labels = np.zeros((count, len(classes)), bool)
    for column, name in enumerate(classes):
        path = folder / f"Labels_{name}{ending}.txt"
        content = files.read(path)
        values = None if content is None else _ones(files, path, content)
        if values is not None and len(values) != count:
            files.fault(
                path,
                f"must have {count:,} lines, one for each image of the list, but has {len(values):,}",
                fatal=True,
            )
        elif values is not None:
            labels[:, column] = values
    return labels


def _ones(files: LabelFiles, path: Path, content: bytes) -> NDArray[np.bool_] | None:
    """Return bool (N,) of a file with a 0 or a 1 on each line."""
    # 81 files of up to 161,789 lines: in the usual form every other byte is a digit, which NumPy compares at once.
    text = np.frombuffer(
        content.replace(b"\r", b"").replace(b" ", b"").rstrip(b"\n") + b"\n" if content.strip() else b"", np.uint8
    )
    digits, ends = text[::2], text[1::2]
    if len(digits) == len(ends) and np.isin(digits, (_ONE, _ZERO)).all() and (ends == _NEWLINE).all():
        ones: NDArray[np.bool_] = digits == _ONE
        return ones
    for number, line in _numbered(content):
        if line.strip() not in (b"0", b"1"):
            files.fault(path, f"a line must be 0 or 1, but is {line.decode(errors='replace')!r}", number, fatal=True)
            break
    return None


def _numbered(content: bytes) -> Iterator[tuple[int, bytes]]:
    return enumerate(content.splitlines(), 1)


def _rows_of(
    files: LabelFiles, everything: list[str], lists: dict[str, list[str]], labels: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    row_of = {name: row for row, name in enumerate(everything)}
    found = {}
    for phase, names in lists.items():
        for number, name in enumerate(names, 1):
            if name not in row_of:
                files.fault(_list_path(files, phase), f"{name} is not in Imagelist.txt", number, name)
        # Row -1, all negative, stands for an image without a row.
        padded = np.concatenate([labels, np.zeros((1, labels.shape[1]), bool)])
        found[phase] = padded[np.array([row_of.get(name, -1) for name in names], np.int64)]
    return found


def _phase(files: LabelFiles, path: Path, names: list[str], true: NDArray[np.bool_]) -> Phase:
    """Return a phase; of an image that is listed twice, the first row counts."""
    first: dict[str, int] = {}  # keeps the order of the list, which split and draw rely on
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            files.fault(path, f"{name} is listed twice, in rows {first[name] + 1} and {row + 1}", row + 1)
    rows = np.array(list(first.values()), np.int64)
    beside = not first or (files.root / next(iter(first))).parent.is_dir()
    # If the images are nowhere, the fault names the usual folder as missing.
    base = next(
        (f"{folder}/" for folder in _IMAGE_FOLDERS if (files.root / folder).is_dir()),
        "" if beside else f"{_IMAGE_FOLDERS[0]}/",
    )
    # Some lists name paths from the root, others from the folder of images.
    return Phase(
        tuple(first), tuple(name if base and name.startswith(base) else base + name for name in first), true[rows]
    )
