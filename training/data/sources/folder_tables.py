"""Read tables of labels from CSV or Parquet: one column per class, or one column with class names."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from training.data.parquet import read_parquet
from training.data.sources.label_files import LabelFiles

EMPTY = -1
IMAGE, SPLIT, LABELS = "image", "split", "labels"
_SEPARATORS = (";", "|", ",")
_WORDS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": EMPTY}


@dataclass(frozen=True)
class Table:
    """The content of one table.

    Attributes:
        path: The file.
        images: N paths inside ``images/``, each once.
        splits: N names of splits, or None if the table has no such column.
        names: K classes: the columns, or the sorted names of the lists.
        values: int8 (N, K): 1, 0, or ``EMPTY`` for an empty cell.
        is_list: Whether the labels came as lists.
        rows: (N,), the row of each image in the file, from 0.
    """

    path: Path
    images: list[str]
    splits: list[str] | None
    names: list[str]
    values: NDArray[np.int8]
    is_list: bool
    rows: NDArray[np.int64]

    def line(self, row: int) -> int | None:
        """Return the line of a CSV, counted from 1; Parquet has no lines."""
        return int(self.rows[row]) + 2 if self.path.suffix == ".csv" else None


def read_table(files: LabelFiles, path: Path) -> Table | None:
    """Read a table; note a fault and return None if it cannot be read."""
    content = files.read(path)
    if content is None:
        return None
    try:
        table = read_parquet(content) if path.suffix == ".parquet" else _read_csv(content)
        return _parse(files, path, table)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        files.fault(path, f"cannot be read: {error}", fatal=True)
        return None


def _parse(files: LabelFiles, path: Path, table: pa.Table) -> Table | None:
    if IMAGE not in table.column_names or len(set(table.column_names)) < table.num_columns:
        files.fault(
            path,
            f"must have a column {IMAGE} and no column twice, but has {', '.join(table.column_names)}",
            1,
            fatal=True,
        )
        return None
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    images = [image.replace("\\", "/").removeprefix("images/") for image in _texts(columns[IMAGE])]
    kept = _unique_rows(files, path, images)
    is_list = LABELS in columns
    classes = [name for name in columns if name not in (IMAGE, SPLIT, LABELS)]
    if is_list == bool(classes):
        files.fault(
            path,
            f"must have either a column per class or one column {LABELS}, but has {', '.join(columns)}",
            1,
            fatal=True,
        )
        return None
    names, values = (
        _read_lists(columns[LABELS]) if is_list else (classes, _read_columns(files, path, columns, classes, images))
    )
    splits = _texts(columns[SPLIT]) if SPLIT in columns else None
    listed = [images[row] for row in kept]
    return Table(
        path, listed, None if splits is None else [splits[row] for row in kept], names, values[kept], is_list, kept
    )


def _texts(column: pa.Array) -> list[str]:
    return [(text or "").strip() for text in column.cast(pa.string()).to_pylist()]


def _read_csv(content: bytes) -> pa.Table:
    # Read every cell as text: as a number, the image 0001 would become 1.
    # The column names come first: types can be set by name only.
    header = pyarrow.csv.open_csv(io.BytesIO(content)).schema.names
    text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
    return pyarrow.csv.read_csv(
        io.BytesIO(content), read_options=pyarrow.csv.ReadOptions(use_threads=False), convert_options=text
    )


def _unique_rows(files: LabelFiles, path: Path, images: list[str]) -> NDArray[np.int64]:
    first: dict[str, int] = {}
    for row, image in enumerate(images):
        line = row + 2 if path.suffix == ".csv" else None
        if not image:
            files.fault(path, f"the column {IMAGE} is empty{'' if line else f' in row {row}'}", line)
        elif first.setdefault(image, row) != row:
            files.fault(path, f"{image} has two rows", line)
    return np.array(list(first.values()), np.int64)


def _read_lists(column: pa.Array) -> tuple[list[str], NDArray[np.int8]]:
    """Return the sorted names, and (N, K) of 1 and 0."""
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        text = column.cast(pa.string()).fill_null("")
        # One separator for the whole column, the first that occurs: names may contain the others.
        separator = next((mark for mark in _SEPARATORS if pc.any(pc.match_substring(text, mark)).as_py()), ";")
        column = pc.split_pattern(text, separator)
    lists = [[name.strip() for name in cell or () if name and name.strip()] for cell in column.to_pylist()]
    names = sorted({name for cell in lists for name in cell})
    column_of = {name: place for place, name in enumerate(names)}
    values = np.zeros((len(lists), len(names)), np.int8)
    for row, cell in enumerate(lists):
        values[row, [column_of[name] for name in cell]] = 1
    return names, values


def _read_columns(
    files: LabelFiles, path: Path, columns: dict[str, pa.Array], classes: list[str], images: list[str]
) -> NDArray[np.int8]:
    values = np.full((len(images), len(classes)), EMPTY, np.int8)
    for place, name in enumerate(classes):
        # A column holds few different texts, so each is looked up once.
        coded = columns[name].cast(pa.string()).fill_null("").dictionary_encode()
        meanings = [_WORDS.get(text.strip().lower()) for text in coded.dictionary.to_pylist()]
        codes = coded.indices.to_numpy()
        values[:, place] = np.array(
            [EMPTY if meaning is None else meaning for meaning in meanings] or [EMPTY], np.int8
        )[codes]
        for row in np.flatnonzero(
            np.isin(codes, [code for code, meaning in enumerate(meanings) if meaning is None])
        ).tolist():
            why = f"cells of the class column {name!r} must be 1 or 0, but {images[row]} has {coded[row].as_py()!r}"
            files.fault(path, why, row + 2 if path.suffix == ".csv" else None, images[row])
    return values
