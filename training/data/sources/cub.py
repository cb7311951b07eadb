"""Read CUB-200-2011 from its unpacked archive; its 312 binary attributes are the classes.

``attributes/image_attribute_labels.txt`` says for each image and attribute whether it is present (the annotator's
certainty is ignored, as in Cole et al., CVPR 2021); ``train_test_split.txt`` splits the images of ``images.txt``, which
are ordered by their numbers. The locations of the bird's parts are read, since attributes belong to parts.
``bounding_boxes.txt`` is not read: it has one box for the whole bird, and a store's box is that of one class.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from training.data.sources.annotations import Annotations, Phase
from training.data.sources.label_files import LabelFiles, find_root, group_rows

LAYOUT = "CUB_200_2011/, attributes/image_attribute_labels.txt"
NUM_ATTRIBUTES = 312
_LABELS = Path("attributes", "image_attribute_labels.txt")
_COLUMNS = ("image", "attribute", "present", "certainty", "time")
_NUM_NAMED = 20


def read_cub(source: Path, *, images: bool = False) -> Annotations:
    """Read CUB-200-2011.

    Args:
        source: The folder that holds ``CUB_200_2011/``, or that itself.
        images: Whether to look for the images and read parts; without, the attribute labels, the split and
            ``images.txt`` are enough (and ``attributes.txt``, in the folder or next to it, for the names).

    Raises:
        NotThisDatasetError: The folder holds something else.
    """
    files = LabelFiles(find_cub(source))
    names = files.numbered_lines(files.root / "images.txt")
    if len(set(names.values())) < len(names):
        files.fault(files.root / "images.txt", "lists a file twice")
    classes = _attribute_names(files)
    order = np.array(sorted(names), np.int64)
    true = _read_labels(files, order, len(classes))
    is_train = _read_split(files, order)
    parts, points = _read_parts(files, order) if images else ([], None)
    phases = {}
    for phase, rows in (("train", np.flatnonzero(is_train == 1)), ("test", np.flatnonzero(is_train == 0))):
        numbers = [int(number) for number in order[rows]]
        listed = tuple(f"images/{names[number]}" for number in numbers)
        located = None if points is None else tuple(points[row] for row in rows)
        phases[phase] = Phase(tuple(str(number) for number in numbers), listed, true[rows], points=located)
    if images:
        phases = files.check_images(phases)
    return files.annotations("cub", LAYOUT, classes, phases, parts=parts)


def find_cub(source: Path) -> Path:
    """Return the folder that holds ``images.txt`` and ``attributes/``.

    Raises:
        NotThisDatasetError: No such folder was found.
    """
    return find_root(source, "CUB-200-2011", f"images.txt next to {_LABELS.as_posix()}", _holds_labels)


def _holds_labels(folder: Path) -> bool:
    found = [(folder / name).exists() for name in ("images.txt", "train_test_split.txt", _LABELS)]
    return sum(found) >= 2  # one may be missing: that is a fault of CUB, not a different dataset


def _attribute_names(files: LabelFiles) -> list[str]:
    """Return the names in attributes.txt, which the archive holds next to its one folder."""
    for path in (
        files.root / "attributes.txt",
        files.root / "attributes" / "attributes.txt",
        files.root.resolve().parent / "attributes.txt",
    ):
        if path.exists():
            return _numbered_names(files.numbered_lines(path))
    files.notes.append("no attributes.txt in the folder or next to it, so the attributes are numbered instead of named")
    return [f"attribute_{number:03d}" for number in range(1, NUM_ATTRIBUTES + 1)]


def _numbered_names(lines: dict[int, str]) -> list[str]:
    return [lines[number] for number in sorted(lines)]


def _read_split(files: LabelFiles, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,): 1 for train, 0 for test and -1 for neither."""
    path = files.root / "train_test_split.txt"
    values = files.numbered_lines(path)
    known = set(order.tolist())
    # Without the file, one fault has been noted, and one for each image would bury it.
    if not values:
        return np.full(len(order), -1)
    for number, value in values.items():
        if number not in known:
            files.fault(path, f"image {number} is not in images.txt")
        elif value not in ("0", "1"):
            files.fault(path, f"image {number} must have 1 (train) or 0 (test), but has {value!r}", id=str(number))
    for number in sorted(known - values.keys()):
        files.fault(path, f"image {number} of images.txt has no line", id=str(number))
    return np.array([{"1": 1, "0": 0}.get(values.get(number, ""), -1) for number in order.tolist()], np.int64)


def _read_labels(files: LabelFiles, order: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Return bool (N, C); an attribute listed twice, or not at all, is a fault."""
    path = files.root / _LABELS
    true = np.zeros((len(order), width), bool)
    table = _read_columns(files, path)
    if table is None or not len(order):
        return true
    image, attribute, present = table.T
    # An unknown image gets a neighbour's row, or the last one; the comparison below rejects it.
    rows = np.searchsorted(order, image).clip(max=len(order) - 1)
    fits = (order[rows] == image) & (attribute >= 1) & (attribute <= width) & ((present == 0) | (present == 1))
    # Bounded, because a file with a shifted column would have 3.7 million wrong lines.
    for number, name, value in table[~fits][:_NUM_NAMED].tolist():
        files.fault(
            path,
            f"a line says {number} {name} {value}, but must be an image of images.txt, an attribute from 1 to {width}, "
            f"and 0 or 1",
        )
    # The cell of (N, C) that a line is about. Attributes are numbered from 1.
    flat = rows[fits] * width + attribute[fits] - 1
    true.reshape(-1)[flat[present[fits] == 1]] = True
    # How often each (image, attribute) occurs: exactly once in a sound file.
    times = np.bincount(flat, minlength=true.size).reshape(true.shape)
    for row in np.flatnonzero((times != 1).any(1)).tolist():
        missing, twice = int((times[row] == 0).sum()), int((times[row] > 1).sum())
        files.fault(path, f"image {order[row]} must have a line for each attribute, "
            f"but {missing} are missing and {twice} occur twice",
                    id=str(order[row]))  # fmt: skip
    return true


def _read_columns(files: LabelFiles, path: Path) -> NDArray[np.int64] | None:
    """Return (L, 3) of image, attribute and present.

    Some lines of the real file have more than five columns; the first three are correct in those lines too.
    """
    content = files.read(path)
    if content is None:
        return None
    longer: list[list[str]] = []  # set aside and appended later: the order of the lines does not matter

    def keep_longer(row: pyarrow.csv.InvalidRow) -> str:
        if row.actual_columns < 3:
            return "error"
        longer.append(row.text.split()[:3])
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            read_options=pyarrow.csv.ReadOptions(
                column_names=_COLUMNS, use_threads=False
            ),  # one thread, so that an error names its line
            parse_options=pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=keep_longer),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=_COLUMNS[:3], column_types=dict.fromkeys(_COLUMNS[:3], pa.int64()), null_values=[]
            ),
        )
        regular = np.stack([column.to_numpy() for column in table.columns], axis=1)
        return np.concatenate([regular, np.array(longer, np.int64).reshape(-1, 3)])
    except (pa.ArrowInvalid, ValueError) as error:
        number, line = _first_bad_line(content)
        files.fault(
            path,
            f"a line must be image, attribute, 0 or 1, certainty and time, but is {line!r}" if number else str(error),
            number,
            fatal=True,
        )
        return None


def _first_bad_line(content: bytes) -> tuple[int | None, str]:
    for number, line in enumerate(content.splitlines(), 1):
        fields = line.split(b" ")
        if len(fields) < 3 or not all(field.isdigit() for field in fields[:3]):
            return number, line.decode(errors="replace")
    return None, ""


def _read_parts(
    files: LabelFiles, order: NDArray[np.int64]
) -> tuple[list[str], tuple[NDArray[np.float32], ...] | None]:
    """Return the names of the parts, and their locations in each image."""
    if not (files.root / "parts").is_dir():
        files.notes.append("no folder parts/, so the locations of the birds' parts are unknown")
        return [], None
    names = _numbered_names(files.numbered_lines(files.root / "parts" / "parts.txt"))
    return names, _read_points(files, order, len(names))


def _read_points(files: LabelFiles, order: NDArray[np.int64], num_parts: int) -> tuple[NDArray[np.float32], ...] | None:
    """Return for each image (M, 3) of (part, x, y), visible parts only."""
    path = files.root / "parts" / "part_locs.txt"
    content = files.read(path)
    if content is None:
        return None
    try:
        # float32 is exact up to 2 ** 24, far beyond the 11,788 images.
        table = np.loadtxt(io.BytesIO(content), np.float32, ndmin=2)
    except ValueError as error:
        # Not fatal, like the other faults of this file: no label depends on the parts.
        files.fault(path, f"a line must be image, part, x, y and visible: {error}")
        return None
    if not len(order) or table.shape[1] != 5:
        files.fault(path, f"a line must be image, part, x, y and visible, but has {table.shape[1]} columns")
        return None
    if bad := np.flatnonzero((table[:, 1] < 1) | (table[:, 1] > num_parts)).tolist():
        files.fault(
            path, f"part must be 1 to {num_parts}, the parts of parts.txt, but is {table[bad[0], 1]:g}", bad[0] + 1
        )
        return None
    # As for the labels, an unknown image gets some row, and the next line rejects it.
    rows = np.searchsorted(order, table[:, 0].astype(np.int64)).clip(max=len(order) - 1)
    seen = (order[rows] == table[:, 0].astype(np.int64)) & (table[:, 4] == 1)
    # Parts are numbered from 1.
    values = table[seen, 1:4] - np.array([1, 0, 0], np.float32)
    return group_rows(rows[seen], values, len(order))
