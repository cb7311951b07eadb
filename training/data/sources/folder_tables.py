"""Read tables of labels from CSV or Parquet: one column per class, or one column with class names."""

from __future__ import annotations

import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.counts import counted
from training.csv_cells import unguard_cell
from training.data.parquet import read_parquet
from training.data.sources.annotations import some
from training.data.sources.label_files import LabelFiles
from training.image_files import IMAGE_SUFFIXES, is_mac_twin

EMPTY, WRONG, NEGATIVE = -1, -2, -3
IMAGE, SPLIT, LABELS, NEGATIVES, RECORDING = "image", "split", "labels", "negatives", "recording"
_OWN = (IMAGE, SPLIT, LABELS, RECORDING)
_DELIMITERS = (",", ";", "\t")
_SEPARATORS = (";", "|", ",")
# With 1.0, because pandas writes whole numbers as floats in a column with an empty cell.
_WORDS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": EMPTY}
_SIGNED_WORDS = _WORDS | {"+1": 1, "-1": NEGATIVE, "-1.0": NEGATIVE, "\u22121": NEGATIVE}
"""Those of observed labels, with the minus of a typesetter too."""
# A byte order mark, a zero-width space and marks of direction, which str.strip() does not take for blanks.
_INVISIBLE = "\ufeff\u200b\u200e\u200f"
_ELSEWHERE = re.compile(r"/|[A-Za-z]+:/")


@dataclass(frozen=True)
class Table:
    """The content of one table.

    Attributes:
        path: The file.
        images: N paths inside ``images/``, each once.
        splits: N names of splits, or None if the table has no such column.
        names: K classes: the columns, or the sorted names of the lists.
        values: int8 (N, K): 1, 0, ``EMPTY``, ``NEGATIVE`` (observed labels only: known to be negative), or ``WRONG``
            for a cell that is noted as a fault.
        is_list: Whether the labels came as lists.
        lines: N lines of a CSV, counted from 1; None for Parquet, which has no lines.
        named_in: Class -> the line that names it first; empty for Parquet.
        recordings: N names of what the images are parts of, or None if the table has no such column.
    """

    path: Path
    images: list[str]
    splits: list[str] | None
    names: list[str]
    values: NDArray[np.int8]
    is_list: bool
    lines: list[int] | None
    named_in: dict[str, int]
    recordings: list[str] | None = None

    def line(self, row: int) -> int | None:
        """Return the line of a row."""
        return None if self.lines is None else self.lines[row]


@dataclass(frozen=True)
class _Raw:
    """A table as it stands in its file: K names, K columns of N cells, and the lines of the N rows."""

    names: list[str]
    columns: list[Sequence[Any]]
    lines: list[int] | None

    def line(self, row: int) -> int | None:
        return None if self.lines is None else self.lines[row]

    def select(self, rows: Sequence[int]) -> _Raw:
        lines = None if self.lines is None else [self.lines[row] for row in rows]
        return _Raw(self.names, [[column[row] for row in rows] for column in self.columns], lines)


def clean(text: str) -> str:
    """Return a text without what a reader cannot see: blanks around it, marks, the two spellings of an accent."""
    return unicodedata.normalize("NFC", text).strip(_INVISIBLE).strip()


@cache  # called for every row, and resolve() asks the file system
def _ways_to(root: Path) -> tuple[str, ...]:
    """Return how a path may start that leads into ``images/``."""
    folders = (root.absolute().as_posix(), root.resolve().as_posix(), root.name)
    return (*dict.fromkeys(f"{folder}/images/" for folder in folders), "images/")


def clean_image(text: str, root: Path) -> str:
    """Return an image's path inside ``images/``, from a path in any notation that leads there."""
    text = clean(text).replace("\\", "/")
    name = posixpath.normpath(text) if text else ""
    for folder in _ways_to(root):
        name = name.removeprefix(folder)
    return name


def read_table(files: LabelFiles, path: Path, *, signed: bool = False) -> Table | None:
    """Read a table; note a fatal fault and return None if it cannot be read.

    Args:
        files: Takes the faults.
        path: The table.
        signed: Whether it may say that labels are known to be negative: -1 in a cell, or the column ``negatives``.
    """
    raw = _read_parquet(files, path) if path.suffix == ".parquet" else _read_csv(files, path)
    raw = None if raw is None else _check_columns(files, path, raw, signed)
    return None if raw is None else _parse(files, path, raw, signed)


def _parse(files: LabelFiles, path: Path, raw: _Raw, signed: bool) -> Table | None:
    images = [clean_image(_text(cell), files.root) for cell in raw.columns[raw.names.index(IMAGE)]]
    rows = _choose_rows(files, path, raw, images)
    if rows is None:
        return None
    if len(rows) < len(images):
        raw, images = raw.select(rows), [images[row] for row in rows]
    columns = dict(zip(raw.names, raw.columns, strict=True))
    splits, recordings = (
        [clean(_text(cell)) for cell in columns.pop(name)] if name in columns else None for name in (SPLIT, RECORDING)
    )
    is_list = LABELS in columns
    del columns[IMAGE]
    if is_list:
        names, values, named_in = _read_lists(files, path, columns[LABELS], columns.get(NEGATIVES), raw)
    else:
        words = _SIGNED_WORDS if signed else _WORDS
        names, values = list(columns), _read_columns(files, path, columns, raw, images, words)
        named_in = {} if raw.lines is None else dict.fromkeys(names, 1)
    return Table(path, images, splits, names, values, is_list, raw.lines, named_in, recordings)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)


def _read_parquet(files: LabelFiles, path: Path) -> _Raw | None:
    content = files.read(path)
    if content is None:
        return None
    try:
        table = read_parquet(content)
        columns = [
            column if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else column.cast(pa.string())
            for column in table.columns
        ]
    except (pa.ArrowException, OSError) as error:
        files.fault(path, f"cannot be read: {error}", fatal=True)
        return None
    return _Raw([clean(name) for name in table.column_names], [column.to_pylist() for column in columns], None)


def _read_csv(files: LabelFiles, path: Path) -> _Raw | None:
    """Read a CSV with commas, semicolons or tabs; every cell is text: as a number, the image 0001 would become 1."""
    text = files.text(path)
    if text is None:
        return None
    stream = io.StringIO(text, newline="")
    has_hint = text[:4].casefold() == "sep="  # a line that spreadsheets write for each other
    delimiter = text[4] if has_hint and text[4:5] in _DELIMITERS else _find_delimiter(text)
    # Strict, because a quote that is never closed would otherwise take the rest of the file into one cell.
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows, lines = [], []
    try:
        for cells in reader:
            if not any(map(str.strip, cells)) or (has_hint and reader.line_num == 1):
                continue  # a spreadsheet ends in rows of empty cells
            if header is None:
                header = [clean(unguard_cell(name)) for name in cells]
                continue
            rows.append(list(map(unguard_cell, cells)))  # a table of scores that we wrote
            lines.append(reader.line_num)
    except csv.Error as error:
        files.fault(path, f"cannot be read: {error}", reader.line_num, fatal=True)
        return None
    if header is None or not rows:
        files.fault(path, "is empty" if header is None else "has a header, but no rows", fatal=True)
        return None
    return _make_even(files, path, header, rows, lines, delimiter)


def _find_delimiter(text: str) -> str:
    """Return the delimiter that the header line, which must name a column image, is written with."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        if IMAGE in (clean(name.strip().strip('"')).casefold() for name in header.split(delimiter)):
            return delimiter
    # A fault in any case: the delimiter that splits the header best makes its message show the columns.
    return max(_DELIMITERS, key=header.count)


def _make_even(
    files: LabelFiles, path: Path, header: list[str], rows: list[list[str]], lines: list[int], delimiter: str
) -> _Raw | None:
    """Return the table; note a fault if a row has too many or too few cells."""
    width, is_even = len(header), True
    for cells, line in zip(rows, lines, strict=True):
        while len(cells) > width and not cells[-1].strip():
            cells.pop()  # a separator at the end of the line
        if len(cells) != width:
            why = f"has {counted(len(cells), 'cell')}, but the header has {width}"
            hint = f". Put cells that contain {delimiter!r} in double quotes" if len(cells) > width else ""
            files.fault(path, why + hint, line, fatal=True)
            is_even = False
    return (
        _Raw(header, [list(column) for column in zip(*rows, strict=True)] or [[]] * width, lines) if is_even else None
    )


def _check_columns(files: LabelFiles, path: Path, raw: _Raw, signed: bool) -> _Raw | None:
    """Return the table with its own columns' names in small letters; note a fatal fault if its columns are wrong."""
    # A separator at the end of each line makes a column without name and content.
    kept = [place for place, name in enumerate(raw.names) if name or any(map(_text, raw.columns[place]))]
    names = [raw.names[place] for place in kept]
    own = (*_OWN, NEGATIVES) if signed and LABELS in map(str.casefold, names) else _OWN
    names = [name.casefold() if name.casefold() in own else name for name in names]
    raw = _Raw(names, [raw.columns[place] for place in kept], raw.lines)
    classes = [name for name in names if name not in own]
    why = None
    if IMAGE not in names:
        why = f"must have a column {IMAGE}, but has {some(map(repr, names))}{_hint_image(raw)}"
    elif len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        why = f"must not have a column twice, but has {some(map(repr, twice))} more than once. Rename or delete one"
    elif "" in names:
        why = (
            f"column {kept[names.index('')] + 1} has no name. Name it, or delete it if it only counts the rows "
            f"(pandas writes none with index=False)"
        )
    elif (LABELS in names) == bool(classes):
        why = f"must have either one column per class or the column {LABELS}, but has {some(names)}"
    if why is None:
        return raw
    files.fault(path, why, None if raw.lines is None else 1, fatal=True)
    return None


def _hint_image(raw: _Raw) -> str:
    for name, column in zip(raw.names, raw.columns, strict=True):
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            return f". Add a first line with the names of the columns, such as: {IMAGE},{LABELS}"
        if column and Path(_text(column[0]).strip()).suffix.lower() in IMAGE_SUFFIXES:
            return f". Rename {name!r}, which holds names of images, to {IMAGE}"
    return ""


def _choose_rows(files: LabelFiles, path: Path, raw: _Raw, images: list[str]) -> list[int] | None:
    """Return the rows to read, each image's first; None after a fatal fault."""
    first: dict[str, int] = {}
    faults: list[tuple[int, str]] = []
    num_twins = num_same = 0
    for row, image in enumerate(images):
        if not image:
            faults.append((row, f"the column {IMAGE} is empty"))
        elif _ELSEWHERE.match(image):
            faults.append((row, f"{image!r} is not a path inside images/. {_shorten(image, files.root)}"))
        elif is_mac_twin(posixpath.basename(image)):
            num_twins += 1
        elif first.setdefault(image, row) != row:
            if all(column[row] == column[first[image]] for column in raw.columns):
                num_same += 1
            else:
                faults.append((row, f"{image!r} has two rows. Write all its labels in one"))
    for row, why in faults:
        files.fault(path, why if raw.lines else f"{why} (row {row})", raw.line(row), fatal=True)
    if num_twins:
        files.notes.append(f"ignored {counted(num_twins, 'row')} of {path.name} for files that only a Mac adds (._*)")
    if num_same:
        files.notes.append(f"ignored {counted(num_same, 'row')} of {path.name} that only repeat an earlier one")
    return None if faults else list(first.values())


def _shorten(image: str, root: Path) -> str:
    """Return how to write a path of another place."""
    parts = image.split("/")
    inside = next(
        (name for n in range(1, len(parts)) if (root / "images" / (name := "/".join(parts[n:]))).exists()), ""
    )
    return f"Write {inside!r}" if inside else "Write 'birds/1.jpg' for images/birds/1.jpg"


def _read_lists(
    files: LabelFiles, path: Path, positives: Sequence[Any], negatives: Sequence[Any] | None, raw: _Raw
) -> tuple[list[str], NDArray[np.int8], dict[str, int]]:
    """Return the sorted names, (N, K) of 1, 0 and ``NEGATIVE``, and the line that names each first."""
    num = len(positives)
    texts = [cell if isinstance(cell, list) else _text(cell) for cell in [*positives, *(negatives or ())]]
    # One separator for the whole column, the first that occurs: names may contain the others.
    separator = next(
        (mark for mark in _SEPARATORS if any(isinstance(cell, str) and mark in cell for cell in texts)), ";"
    )
    lists = [
        [name for part in (cell.split(separator) if isinstance(cell, str) else cell) if (name := clean(_text(part)))]
        for cell in texts
    ]
    named_in: dict[str, int] = {}
    for place, cell in enumerate(lists):
        for name in cell:
            named_in.setdefault(name, raw.line(place % num) or 0)
    names = sorted(named_in)
    for name in names:
        if why := _mistaken(name, set(names), separator):
            files.fault(path, f"{name!r} is not the name of a class: {why}", named_in[name] or None, fatal=True)
    column_of = {name: place for place, name in enumerate(names)}
    values = np.zeros((num, len(names)), np.int8)
    for row, cell in enumerate(lists[num:]):
        values[row, [column_of[name] for name in cell]] = NEGATIVE
    for row, cell in enumerate(lists[:num]):
        if both := sorted({name for name in cell if values[row, column_of[name]] == NEGATIVE}):
            why = f"{some(map(repr, both))} must be in {LABELS} or in {NEGATIVES}, but not in both"
            files.fault(path, why, raw.line(row), fatal=True)
        values[row, [column_of[name] for name in cell]] = 1
    return names, values, named_in if raw.lines else {}


def _mistaken(name: str, names: set[str], separator: str) -> str | None:
    """Return why a name is more likely several names, or None."""
    if name[0] in "[{":
        return "write lists as cat;dog, without brackets or quotes"
    for mark in _SEPARATORS:
        if mark != separator and mark in name and names & {clean(part) for part in name.split(mark)}:
            return f"names are separated by {separator!r} elsewhere. Use one separator"
    return None


def _read_columns(
    files: LabelFiles,
    path: Path,
    columns: dict[str, Sequence[Any]],
    raw: _Raw,
    images: list[str],
    words: Mapping[str, int],
) -> NDArray[np.int8]:
    values = np.full((len(images), len(columns)), EMPTY, np.int8)
    wrong: dict[str, str] = {}
    for place, (name, column) in enumerate(columns.items()):
        # A column holds few different texts, so each is looked up once.
        meanings = {cell: words.get(clean(_text(cell)).casefold(), WRONG) for cell in set(column)}
        values[:, place] = np.fromiter(map(meanings.__getitem__, column), np.int8, len(images))
        if WRONG in meanings.values():
            wrong[name] = next(cell for cell in column if meanings[cell] == WRONG)
    _note_wrong(files, path, values, list(columns), wrong, raw.line, images)
    return values


def _note_wrong(
    files: LabelFiles,
    path: Path,
    values: NDArray[np.int8],
    names: list[str],
    wrong: dict[str, str],
    line: Callable[[int], int | None],
    images: list[str],
) -> None:
    """Note one fault for each row with a cell that is neither 1 nor 0, all of the same wording."""
    if wrong:
        holds = some(f"{name!r} has {text!r}" for name, text in wrong.items())
        why = f"cells of a class must be 1 or 0, but {holds}. Delete columns that are not classes"
        for row in np.flatnonzero((values == WRONG).any(1)).tolist():
            files.fault(path, why, line(row), images[row])
