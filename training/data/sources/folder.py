"""Read your own images: a folder with ``images/`` and tables of their labels.

::

    images/                          folders may be nested to any depth
    labels.csv    or .parquet        images whose labels are all known
    observed.csv  or .parquet        images of which only single positives are known
    classes.txt                      optional: the classes in order, one per line
    train.txt  val.txt  test.txt     optional: images of each split, one per line

A table has a column ``image`` (a path inside ``images/``), optionally ``split`` (train, val or test) and ``recording``
(what several images are parts of), and either one column per class with 1 or 0 in it, or one column ``labels`` with
class names: separated by ``;``, ``|`` or ``,`` in a CSV, a list or such a text in Parquet. In ``observed``, 0 and an
empty cell both mean "not known", -1 means "known to be negative" (with lists, a column ``negatives``), and an image of
which nothing is known is left out; in ``labels`` every cell must be filled. Blanks around names do not count, and names
that differ only in case are a fault. A CSV is in UTF-8 or marked UTF-16, with commas, semicolons or tabs.

A split whose images are in ``labels`` has true labels. One whose images are only in ``observed`` has none, and whatever
needs them is not available. Images in both tables have true labels, and their observed label is the given one instead
of a drawn one. All images of a split must have the same kind of labels, so with images of both kinds the splits must be
given. Without given splits, a fifth of the images is drawn for test, always the same ones; without ``val``, a run draws
it from train by ``data.split_seed``, as in the literature. Images are ordered by name.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config.spelling import nearest_word
from training.counts import counted
from training.data.protocol import draw_single_positives, split_train_val
from training.data.sources.annotations import Annotations, Phase, some
from training.data.sources.folder_tables import EMPTY, NEGATIVE, Table, clean, clean_image, read_table
from training.data.sources.label_files import LabelFiles, find_root
from training.errors import NotThisDatasetError
from training.image_files import IMAGE_SUFFIXES, is_mac_twin

SPLITS = ("train", "val", "test")
TABLES = {kind: [f"{kind}.csv", f"{kind}.parquet"] for kind in ("labels", "observed")}
_SEED = 1200
_FEW = 2_000
"""Up to this many images, a name that is not among them is compared with each."""
_Labels = dict[str, NDArray[np.bool_]]


def read_folder(source: Path, *, images: bool = False, name: str = "folder") -> Annotations:
    """Read your own images and labels from a folder; the docstring of this module describes its layout.

    Args:
        source: The folder with the tables.
        images: Whether to look for the images.
        name: The name to give the dataset.

    Raises:
        NotThisDatasetError: No table was found.
    """
    files = LabelFiles(find_folder(source))
    tables = {kind: table for kind in TABLES if (table := _read_table(files, kind))}
    classes = _classes(files, tables)
    true, observed = (_matrix(files, tables.get(kind), classes, kind) for kind in TABLES)
    negative = _known_negatives(tables.get("observed"), classes)
    empty = _find_empty(files, tables, true, observed, negative)
    # With labels that cannot be used, whatever else there is to say would only be a consequence.
    if any(fault.is_fatal for fault in files.faults):
        nothing = Phase((), (), np.zeros((0, len(classes)), bool))
        return files.annotations(name, "images/ and tables", classes, {"train": nothing, "test": nothing})
    split_of, given = _splits(files, tables, sorted(true.keys() | observed.keys()))
    phases = {}
    for split in SPLITS:
        ids = tuple(id for id in sorted(split_of) if split_of[id] == split and id not in empty)
        # An empty val counts as none and is drawn from train; an empty test is kept, with a note.
        if ids or split != "val":
            phase = _phase(files, split, ids, true, observed, len(classes))
            phases[split] = _with_negatives(files, split, _with_recordings(phase, tables.values()), negative)
    if not len(phases["test"]):
        files.notes.append("there are no test images, so a promotion cannot be scored")
    _note_unlabelled(files, classes, phases)
    if phases["train"].recordings and given.startswith("drawn"):
        files.notes.append(
            "splits are drawn image by image, so parts of one recording are in train and in test. Give the splits"
        )
    if images:
        phases = files.check_images(phases)
        listed = {clean(file) for phase in phases.values() for file in phase.files}
        _note_unlisted(files, listed | {f"images/{id}" for id in empty})
    layout = f"images/ and tables; splits {given}; labels: {_kinds(phases)}"
    return files.annotations(name, layout, classes, phases)


def _kinds(phases: Mapping[str, Phase]) -> str:
    """Return which splits have which labels: ``observed only (train, val), all known (test)``."""
    splits: dict[str, list[str]] = {}
    for split, phase in phases.items():
        splits.setdefault("observed only" if phase.true is None else "all known", []).append(split)
    return ", ".join(f"{kind} ({', '.join(names)})" for kind, names in splits.items())


def find_folder(source: Path) -> Path:
    """Return the folder that holds the tables.

    Raises:
        NotThisDatasetError: No such folder was found.
    """
    wanted = (
        "labels.csv or observed.csv (or .parquet) next to images/, with the column image and either one column per "
        "class or the column labels"
    )
    try:
        return find_root(source, "your own images", wanted, _holds_table)
    except NotThisDatasetError as error:
        raise NotThisDatasetError(f"{error}{_hint_table(source)}") from None


def _hint_table(source: Path) -> str:
    """Return what to do with a file that is probably meant as a table."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    for path in files:
        # Only capitals can differ: with the exact name, the folder would have been found.
        if path.name.casefold() in (name for names in TABLES.values() for name in names):
            return f". Rename {path.name} to {path.name.casefold()}"
        if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers"):
            return f'. Save {path.name} as labels.csv ("CSV UTF-8" in Excel)'
        if path.suffix.lower() in (".csv", ".tsv", ".parquet") and not is_mac_twin(path.name):
            suffix = ".parquet" if path.suffix.lower() == ".parquet" else ".csv"
            return (
                f". Rename {path.name} to labels{suffix} if it has all labels of its images, else to observed{suffix}"
            )
    return ""


def _holds_table(folder: Path) -> bool:
    return any((folder / name).exists() for names in TABLES.values() for name in names)


def _read_table(files: LabelFiles, kind: str) -> Table | None:
    found = _table_paths(files, kind)
    if len(found) > 1:
        files.fault(found[1], f"is a second table next to {found[0].name}; keep one of them", fatal=True)
    return read_table(files, found[0], signed=kind == "observed") if found else None


def _table_paths(files: LabelFiles, kind: str) -> list[Path]:
    return [files.root / name for name in TABLES[kind] if (files.root / name).exists()]


def _classes(files: LabelFiles, tables: dict[str, Table]) -> list[str]:
    """Return the classes in classes.txt, or else those of the tables: columns in order, names from lists sorted."""
    path = files.root / "classes.txt"
    listed = {clean(name): line for name, line in files.unique_lines(path).items()} if path.exists() else {}
    _refuse_twins(files, [(name, path, line) for name, line in listed.items()], tables.values())
    if path.exists():
        for table in tables.values():
            if unknown := [name for name in table.names if name not in listed]:
                close = nearest_word(unknown[0], listed)
                hint = f"; did you mean {close!r}?" if close else ""
                why = f"{some(map(repr, unknown))} {'is' if len(unknown) == 1 else 'are'} not in classes.txt{hint}"
                files.fault(table.path, why, table.named_in.get(unknown[0]), fatal=True)
        return list(listed)
    if any(table.is_list for table in tables.values()):
        return sorted({name for table in tables.values() for name in table.names})
    # A class that one table lacks may be misspelt in the other, and only classes.txt could tell.
    if len({frozenset(table.names) for table in tables.values()}) > 1:
        first, second = tables.values()
        differ = some(map(repr, sorted(set(first.names) ^ set(second.names))))
        why = f"must have the class columns of {first.path.name}, but differs in {differ}"
        files.fault(second.path, why, (second.named_in and 1) or None, fatal=True)
    return list(dict.fromkeys(name for table in tables.values() for name in table.names))


def _refuse_twins(files: LabelFiles, listed: list[tuple[str, Path, int]], tables: Iterable[Table]) -> None:
    """Note a fault for names that differ only in case or blanks: they would share the positives of one class."""
    first: dict[str, tuple[str, Path, int | None]] = {}
    named = [
        (name, table.path, table.named_in.get(name))
        for table in tables
        for name in sorted(table.names, key=lambda name: table.named_in.get(name, 0))
    ]
    for name, path, line in [*listed, *named]:
        # NFKC also makes full-width letters and ligatures equal to the plain ones.
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        other, where, at = first.setdefault(key, (name, path, line))
        if other != name:
            place = f"{files.name(where)}{'' if at is None else f':{at}'}"
            files.fault(
                path,
                f"class {name!r} and {other!r} of {place} differ only in case or blanks. Write them in one way",
                line,
                fatal=True,
            )


def _matrix(files: LabelFiles, table: Table | None, classes: Sequence[str], kind: str) -> _Labels:
    """Return image -> bool (C,); an empty cell in true labels is a fault."""
    if table is None:
        return {}
    labels = np.zeros((len(table.images), len(classes)), bool)
    for column, name in enumerate(table.names):
        # The others have had their fault in _classes.
        if name in classes:
            labels[:, classes.index(name)] = table.values[:, column] == 1
    empty = table.values == EMPTY
    if kind == "labels" and empty.any():
        named = some(repr(table.names[column]) for column in np.flatnonzero(empty.any(0)))
        why = (
            f"cells of a class must be 1 or 0, but some of {named} are empty. Images whose labels are not all known "
            f"belong in observed.csv"
        )
        for row in np.flatnonzero(empty.any(1)).tolist():
            files.fault(table.path, why, table.line(row), table.images[row])
    return dict(zip(table.images, labels, strict=True))


def _known_negatives(table: Table | None, classes: Sequence[str]) -> _Labels:
    """Return image -> bool (C,) for the images of which a label is known to be negative."""
    if table is None or not (table.values == NEGATIVE).any():
        return {}
    negative = np.zeros((len(table.images), len(classes)), bool)
    for column, name in enumerate(table.names):
        if name in classes:
            negative[:, classes.index(name)] = table.values[:, column] == NEGATIVE
    return {image: row for image, row in zip(table.images, negative, strict=True) if row.any()}


def _with_negatives(files: LabelFiles, split: str, phase: Phase, negative: _Labels) -> Phase:
    """Return a split with its known negatives, and a note of how many there are."""
    if not (negative.keys() & set(phase.ids)):
        return phase
    blank = np.zeros(phase.observed.shape[1] if phase.observed is not None else 0, bool)
    matrix = np.array([negative.get(id, blank) for id in phase.ids], bool)
    if phase.true is not None:
        for row in np.flatnonzero((matrix & phase.true).any(1)).tolist():
            path = _table_paths(files, "observed")[0]
            files.fault(path, f"{phase.ids[row]} has a -1 where its true label is 1", id=phase.ids[row])
    files.notes.append(f"{counted(int(matrix.sum()), 'label')} of {split} are known to be negative (data.negatives)")
    return replace(phase, negatives={"given": matrix})


def _with_recordings(phase: Phase, tables: Iterable[Table]) -> Phase:
    """Return a split with what its images are parts of; an image without a name there is one of its own."""
    known = {
        image: name
        for table in tables
        for image, name in zip(table.images, table.recordings or (), strict=False)
        if name
    }
    return replace(phase, recordings=tuple(known.get(id, id) for id in phase.ids)) if known else phase


def _find_empty(
    files: LabelFiles, tables: dict[str, Table], true: _Labels, observed: _Labels, negative: _Labels
) -> set[str]:
    """Return the images of which no label is known; note how many there are."""
    empty = {image for image, marks in observed.items() if image not in true and not marks.any()} - negative.keys()
    if empty and len(empty) == len(observed):
        files.fault(tables["observed"].path, "has no image with a 1", fatal=True)
    elif empty:
        files.notes.append(
            f"left out {counted(len(empty), 'image')} of {tables['observed'].path.name} without an observed label: "
            f"{some(sorted(empty))}"
        )
    return empty


def _splits(files: LabelFiles, tables: dict[str, Table], images: list[str]) -> tuple[dict[str, str], str]:
    """Return image -> split, and in words how the splits were made."""
    lists = {split: files.root / f"{split}.txt" for split in SPLITS if (files.root / f"{split}.txt").exists()}
    columns = [table for table in tables.values() if table.splits is not None]
    if lists and columns:
        files.fault(
            columns[0].path,
            f"has a column split, but {', '.join(path.name for path in lists.values())} gives the splits too; keep one",
        )
    if lists:
        return _listed_splits(files, lists, set(images)), "by " + ", ".join(path.name for path in lists.values())
    if columns:
        return _column_splits(files, tables), "by the column split"
    # Uses the function that splits off val elsewhere; images are sorted, so the order of the tables does not matter.
    rest, test = split_train_val(len(images), _SEED)
    return {
        **{images[row]: "train" for row in rest},
        **{images[row]: "test" for row in test},
    }, f"drawn, a fifth for test (seed {_SEED})"


def _listed_splits(files: LabelFiles, lists: dict[str, Path], images: set[str]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for listed, line in files.unique_lines(path).items():
            image = clean_image(listed, files.root)
            if is_mac_twin(image.rpartition("/")[2]):
                continue
            if image not in images:
                close = nearest_word(image, images) if len(images) < _FEW else None
                hint = f"; did you mean {close!r}?" if close else ""
                files.fault(path, f"{image} has no row in a table{hint}", line, image)
            elif split_of.setdefault(image, split) != split:
                files.fault(path, f"{image} is also in {split_of[image]}.txt", line, image)
    if left := sorted(images - split_of.keys()):
        files.notes.append(f"left out {counted(len(left), 'image')} of the tables without a split: {some(left)}")
    return split_of


def _column_splits(files: LabelFiles, tables: dict[str, Table]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    # The table with the column comes first: one without it takes the split from the other.
    for table in sorted(tables.values(), key=lambda table: table.splits is None):
        for row, image in enumerate(table.images):
            split = table.splits[row].casefold() if table.splits else split_of.get(image, "")
            if split not in SPLITS:
                why = (
                    f"split must be one of {', '.join(SPLITS)}, but is {split!r}" if split else f"{image} has no split"
                )
                files.fault(table.path, why, table.line(row), image)
            elif split_of.setdefault(image, split) != split:
                files.fault(
                    table.path,
                    f"{image} is in {split} here, but in {split_of[image]} in the other table",
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
    """Return one split; record a fault if its labels are not all of the same kind."""
    known, seen = [id for id in ids if id in true], [id for id in ids if id in observed]
    has_true, has_observed = bool(known) or not ids, bool(seen)
    for has, those, kind in ((has_true, known, "labels"), (has_observed, seen, "observed")):
        # A split has a kind of labels as soon as one of its images has it, and then all its images must.
        if has and len(those) < len(ids):
            without = sorted(set(ids) - set(those))
            why = (
                f"must have rows for all images of {split} or for none of them, but {len(without):,} of {len(ids):,} "
                f"have none: {some(without)}"
            )
            files.fault(
                _table_paths(files, kind)[0],
                f"{why}. In train.txt and test.txt, give splits with one kind of labels each",
                fatal=True,
            )
    blank = np.zeros(width, bool)
    labels, marks = (
        np.array([rows.get(id, blank) for id in ids], bool).reshape(len(ids), width) for rows in (true, observed)
    )
    if has_true and has_observed:
        for row in np.flatnonzero((marks & ~labels).any(1)).tolist():
            if ids[row] in true:  # one without true labels has had its fault above
                path = _table_paths(files, "observed")[0]
                files.fault(path, f"{ids[row]} has an observed label that is not among its true ones", id=ids[row])
    if (several := int((marks.sum(1) > 1).sum())) > 0:
        files.notes.append(
            f"{counted(several, 'image')} of {split} with several observed labels: one of them was drawn (seed {_SEED})"
        )
        marks = draw_single_positives(marks, _SEED)  # images with a single mark keep it
    paths = tuple(f"images/{id}" for id in ids)
    return Phase(ids, paths, labels if has_true else None, marks if has_observed else None)


def _note_unlabelled(files: LabelFiles, classes: Sequence[str], phases: dict[str, Phase]) -> None:
    """Note images that have no class, which are kept, and classes that no image of train has."""
    for split, phase in phases.items():
        if phase.true is not None and (num := int((~phase.true.any(1)).sum())):
            files.notes.append(f"kept {counted(num, 'image')} of {split} without any class")
    train = phases["train"]
    labels = train.true if train.observed is None else train.observed
    if labels is not None and len(train) and (unused := np.flatnonzero(~labels.any(0)).tolist()):
        names = some(classes[column] for column in unused)
        files.notes.append(f"{counted(len(unused), 'class')} without a positive in train: {names}")


def _note_unlisted(files: LabelFiles, listed: set[str]) -> None:
    found = [Path(folder, name) for folder, _, names in os.walk(files.root / "images") for name in names]
    inside = [path.relative_to(files.root) for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    pictures = {clean(path.as_posix()) for path in inside if not any(map(is_mac_twin, path.parts))}
    if twins := len(inside) - len(pictures):
        files.notes.append(f"ignored {counted(twins, 'file')} that only a Mac adds (._*, __MACOSX)")
    if left := sorted(pictures - listed):
        files.notes.append(f"left out {counted(len(left), 'image')} with no row or no split: {some(left)}")
