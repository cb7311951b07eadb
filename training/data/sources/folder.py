"""A user's own images: a folder with ``images/`` and tables that say what is in them.

::

    images/                          any depth of folders
    labels.csv    or .parquet        images whose labels are all known
    observed.csv  or .parquet        images of which single positives are known, and nothing else
    classes.txt                      optional: the classes, one a line, in the order wanted
    train.txt  val.txt  test.txt     optional: images of each split, one a line

A table has a column ``image`` (a path inside ``images/``), optionally ``split`` (train, val or test), and either a
column per class, with 1 or 0 in it, or one column ``labels`` with names: between ``;``, ``|`` or ``,`` in a CSV, a list
or such a text in Parquet. In ``observed`` 0 and an empty cell both mean "not known"; in ``labels`` every cell must be
filled.

The file says what is known: a split whose images stand in ``labels`` has true labels; one whose images stand in
``observed`` alone has none, and what needs them is then not available. Images that stand in both have true labels, and
the observed one is theirs in place of a drawn one. A split must be of one kind throughout, so images of both kinds need
given splits. Else a fifth of the images is drawn for test, always the same; without ``val``, a run draws it from train
by ``data.split_seed``, as in the literature. Images count in the order of their names.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.protocol import draw_single_positives, split_train_val
from training.data.sources.annotations import Annotations, Phase
from training.data.sources.folder_tables import EMPTY, Table, read_table
from training.data.sources.label_files import LabelFiles, find_root, some
from training.image_files import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
TABLES = {kind: [f"{kind}.csv", f"{kind}.parquet"] for kind in ("labels", "observed")}
_SEED = 1200


def read_folder(source: Path, *, images: bool = False, name: str = "folder") -> Annotations:
    """Read a folder of one's own; the module says how it must be laid out.

    Args:
        source: The folder with the tables.
        images: Whether images must be there.
        name: What the dataset is to be called.

    Raises:
        NotThisDatasetError: There is no table.
    """
    files = LabelFiles(find_folder(source))
    tables = {kind: table for kind in TABLES if (table := _read_table(files, kind))}
    classes = _classes(files, tables)
    true, observed = (_matrix(files, tables.get(kind), classes, kind) for kind in TABLES)
    split_of, given = _splits(files, tables, sorted(true.keys() | observed.keys()))
    phases = {}
    for split in SPLITS:
        ids = tuple(id for id in sorted(split_of) if split_of[id] == split)
        if ids or split != "val":
            phases[split] = _phase(files, split, ids, true, observed, len(classes))
            if images:
                files.check_images(phases[split])
    if not len(phases["test"]):
        files.notes.append("there are no test images: a promotion has nothing to be scored on")
    if images:
        _note_unlisted(files, {file for phase in phases.values() for file in phase.files})
    kinds = ", ".join(f"{split} {'observed only' if phase.true is None else 'true'}" for split, phase in phases.items())
    return files.annotations(name, f"images/ and tables; splits {given}; labels: {kinds}", classes, phases)


def find_folder(source: Path) -> Path:
    """Return the folder that holds the tables.

    Raises:
        NotThisDatasetError: There is none.
    """
    wanted = (
        "labels.csv or observed.csv (or .parquet) beside images/, with a column image and a column per class or "
        "one column labels"
    )
    return find_root(source, "your own images", wanted, _holds_table)


def _holds_table(folder: Path) -> bool:
    return any((folder / name).exists() for names in TABLES.values() for name in names)


def _read_table(files: LabelFiles, kind: str) -> Table | None:
    found = _table_paths(files, kind)
    if len(found) > 1:
        files.fault(found[1], f"stands beside {found[0].name}: there must be one of them")
    return read_table(files, found[0]) if found else None


def _table_paths(files: LabelFiles, kind: str) -> list[Path]:
    return [files.root / name for name in TABLES[kind] if (files.root / name).exists()]


def _classes(files: LabelFiles, tables: dict[str, Table]) -> list[str]:
    """Return classes.txt, or what the tables name: columns in their order, names of lists by the alphabet."""
    path = files.root / "classes.txt"
    if path.exists():
        classes = list(files.unique_lines(path))
        for table in tables.values():
            for name in table.names:
                if name not in classes:
                    close = difflib.get_close_matches(name, classes, n=1)
                    files.fault(
                        table.path,
                        f"class {name!r} is not in classes.txt{f'; did you mean {close[0]!r}?' if close else ''}",
                    )
        return classes
    if any(table.is_list for table in tables.values()):
        return sorted({name for table in tables.values() for name in table.names})
    if len({frozenset(table.names) for table in tables.values()}) > 1:
        first, second = tables.values()
        differ = sorted(set(first.names) ^ set(second.names))
        files.fault(second.path, f"must have the class columns of {first.path.name}, but they differ in {some(differ)}")
    return list(dict.fromkeys(name for table in tables.values() for name in table.names))


def _matrix(files: LabelFiles, table: Table | None, classes: Sequence[str], kind: str) -> dict[str, NDArray[np.bool_]]:
    """Return image -> bool (C,); in true labels an empty cell is a fault."""
    if table is None:
        return {}
    labels = np.zeros((len(table.images), len(classes)), bool)
    for column, name in enumerate(table.names):
        if name in classes:
            labels[:, classes.index(name)] = table.values[:, column] == 1
    if kind == "labels":
        for row, column in np.argwhere(table.values == EMPTY).tolist():
            why = (
                f"{table.names[column]} of {table.images[row]} must be 1 or 0, but is empty. Where labels are "
                f"unknown, use observed"
            )
            files.fault(table.path, why, table.line(row), table.images[row])
    return dict(zip(table.images, labels, strict=True))


def _splits(files: LabelFiles, tables: dict[str, Table], images: list[str]) -> tuple[dict[str, str], str]:
    """Return image -> split, and how the splits were come by."""
    lists = {split: files.root / f"{split}.txt" for split in SPLITS if (files.root / f"{split}.txt").exists()}
    columns = [table for table in tables.values() if table.splits is not None]
    if lists and columns:
        files.fault(
            columns[0].path,
            f"has a column split beside {', '.join(path.name for path in lists.values())}: splits must be given once",
        )
    if lists:
        return _listed_splits(files, lists, set(images)), "by " + ", ".join(path.name for path in lists.values())
    if columns:
        return _column_splits(files, tables), "by the column split"
    rest, test = split_train_val(len(images), _SEED)
    return {
        **{images[row]: "train" for row in rest},
        **{images[row]: "test" for row in test},
    }, f"drawn, a fifth for test (seed {_SEED})"


def _listed_splits(files: LabelFiles, lists: dict[str, Path], images: set[str]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for listed, line in files.unique_lines(path).items():
            image = listed.removeprefix("images/")
            if image not in images:
                files.fault(path, f"{image} has no row in a table", line, image)
            elif split_of.setdefault(image, split) != split:
                files.fault(path, f"{image} is in {split_of[image]}.txt too", line, image)
    if left := sorted(images - split_of.keys()):
        files.notes.append(
            f"{len(left):,} images of the tables are in no split and are left out, the first of them {left[0]}"
        )
    return split_of


def _column_splits(files: LabelFiles, tables: dict[str, Table]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    # A table without the column leaves the split to the other one.
    for table in sorted(tables.values(), key=lambda table: table.splits is None):
        for row, image in enumerate(table.images):
            split = table.splits[row] if table.splits else split_of.get(image, "")
            if split not in SPLITS:
                files.fault(
                    table.path,
                    f"split must be {', '.join(SPLITS)}, but {image} has {split or 'none'}",
                    table.line(row),
                    image,
                )
            elif split_of.setdefault(image, split) != split:
                files.fault(
                    table.path,
                    f"{image} is in {split_of[image]} by the other table, and in {split} here",
                    table.line(row),
                    image,
                )
    return split_of


def _phase(
    files: LabelFiles,
    split: str,
    ids: tuple[str, ...],
    true: dict[str, NDArray[np.bool_]],
    observed: dict[str, NDArray[np.bool_]],
    width: int,
) -> Phase:
    """Return a split whose labels are of one kind."""
    known, seen = [id for id in ids if id in true], [id for id in ids if id in observed]
    has_true, has_observed = bool(known) or not ids, bool(seen)
    for has, those, kind in ((has_true, known, "labels"), (has_observed, seen, "observed")):
        # What is whole in one table need not be in the other.
        if has and len(those) < len(ids):
            without = sorted(set(ids) - set(those))
            why = (
                f"{split} must have rows for all of its images or for none, but {len(without):,} of {len(ids):,} "
                f"have none: {some(without)}"
            )
            files.fault(
                _table_paths(files, kind)[0],
                f"{why}. Give splits that are of one kind each, as train.txt and test.txt",
                fatal=True,
            )
    blank = np.zeros(width, bool)
    labels, marks = (
        np.array([rows.get(id, blank) for id in ids], bool).reshape(len(ids), width) for rows in (true, observed)
    )
    if has_true and has_observed:
        for row in np.flatnonzero((marks & ~labels).any(1)).tolist():
            if ids[row] in true:
                path = _table_paths(files, "observed")[0]
                files.fault(path, f"{ids[row]} has an observed label that is not among its true ones", id=ids[row])
    if (several := int((marks.sum(1) > 1).sum())) > 0:
        files.notes.append(
            f"{several:,} images of {split} have more than one observed label: one of each is drawn (seed {_SEED})"
        )
        marks = draw_single_positives(marks, _SEED)
    paths = tuple(f"images/{id}" for id in ids)
    return Phase(ids, paths, labels if has_true else None, marks if has_observed else None)


def _note_unlisted(files: LabelFiles, listed: set[str]) -> None:
    found = (Path(folder, name) for folder, _, names in os.walk(files.root / "images") for name in names)
    pictures = {path.relative_to(files.root).as_posix() for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    if left := sorted(pictures - listed):
        files.notes.append(f"{len(left):,} images have no row in a table or no split and are left out: {some(left)}")
