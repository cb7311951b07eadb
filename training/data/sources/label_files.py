"""The label files of a source: found, read, hashed; and what is wrong with them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.sources.annotations import Annotations, Fault, Phase
from training.errors import NotThisDatasetError

_NUM_NAMED = 6


class LabelFiles:
    """Reads the files of one source, remembers their hashes and collects faults in place of raising at the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def name(self, path: Path) -> str:
        """Return a path relative to the root, with forward slashes; a file above the root is named as beside it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else f"../{path.name}"

    def fault(
        self, path: Path, why: str, line: int | None = None, id: str | None = None, *, fatal: bool = False
    ) -> None:
        """Note that something is wrong with a file; ``fatal`` if the labels of other images cannot
        be trusted for it.
        """
        self.faults.append(Fault(self.name(path), why, line, id, fatal))

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None, and a fatal fault, if it cannot be read."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self.fault(path, "is missing", fatal=True)
            return None
        except OSError as error:
            self.fault(path, f"cannot be read: {error.strerror}", fatal=True)
            return None
        self.hashes[self.name(path)] = hashlib.sha256(content).hexdigest()
        return content

    def lines(self, path: Path) -> list[str] | None:
        """Return the lines of a text file, without blank ones at its end; None, and a fatal fault, if it cannot be
        read.
        """
        content = self.read(path)
        if content is None:
            return None
        try:
            return content.decode("utf-8-sig").rstrip().splitlines()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.fault(
                path, f"is not text in UTF-8: byte {error.start} is {content[error.start]:#04x}", line, fatal=True
            )
            return None

    def unique_lines(self, path: Path) -> dict[str, int]:
        """Return the ids that a list names, stripped -> line; an id that stands there twice is a fault."""
        found: dict[str, int] = {}
        for number, line in enumerate(self.lines(path) or (), 1):
            id = line.strip()
            if id in found:
                self.fault(path, f"{id!r} is listed twice, first in line {found[id]}", number)
            elif id:
                found[id] = number
        return found

    def numbered_lines(self, path: Path) -> dict[int, str]:
        """Return number -> value of a list whose lines are a number, a blank and a value, as CUB has them."""
        found: dict[int, str] = {}
        for count, line in enumerate(self.lines(path) or (), 1):
            number, _, value = line.strip().partition(" ")
            if not number.isdecimal() or not value.strip():
                self.fault(path, f"a line must be a number and a value, but is {line!r}", count)
            elif int(number) in found:
                self.fault(path, f"number {number} is listed twice", count)
            else:
                found[int(number)] = value.strip()
        return found

    def check_images(self, phase: Phase) -> None:
        """Note each listed image that has no file; a folder that is missing altogether is one fault, whatever is listed
        below it.
        """
        in_folder: dict[Path, set[str] | None] = {}
        absent: Counter[Path] = Counter()
        for id, file in zip(phase.ids, phase.files, strict=True):
            path = self.root / file
            if ".." in Path(file).parts or Path(file).is_absolute():
                self.fault(path, "must lie inside the dataset's folder", id=id)
                continue
            if path.parent not in in_folder:
                in_folder[path.parent] = _names_in(path.parent)
            names = in_folder[path.parent]
            if names is None:
                absent[_highest_absent(path.parent, self.root)] += 1
            elif path.name not in names:
                self.fault(path, "is listed, but there is no such file", id=id)
        for folder, count in absent.items():
            what = "cannot be read" if folder.is_dir() else "is missing"
            self.fault(folder, f"the folder {what}, and {count:,} listed image{'s' * (count != 1)} with it")

    def annotations(
        self,
        name: str,
        layout: str,
        classes: Sequence[str],
        phases: dict[str, Phase],
        *,
        parts: Sequence[str] = (),
        num_unlabelled: dict[str, int] | None = None,
    ) -> Annotations:
        """Return what was read, with hashes, faults and notes."""
        train, test = (set(phases[phase].ids) if phase in phases else set() for phase in ("train", "test"))
        notes = list(self.notes)
        if both := sorted(train & test):
            notes.append(f"{len(both):,} images are in the training and in the test set, the first of them {both[0]}")
        return Annotations(
            name,
            layout,
            self.root,
            tuple(classes),
            phases,
            dict(self.hashes),
            parts=tuple(parts),
            faults=tuple(self.faults),
            num_unlabelled=dict(num_unlabelled or {}),
            notes=tuple(notes),
        )


def _highest_absent(folder: Path, root: Path) -> Path:
    return next(
        (above for above in reversed(folder.parents) if above.is_relative_to(root) and not above.is_dir()), folder
    )


def _names_in(folder: Path) -> set[str] | None:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError:
        return None


def find_root(source: Path, title: str, wanted: str, holds: Callable[[Path], bool]) -> Path:
    """Return the folder that holds a dataset: the source, or one that lies up to two levels below it.

    Args:
        source: What the user gave.
        title: The dataset, for the message.
        wanted: What was looked for, for the message.
        holds: Whether a folder is the one.

    Raises:
        NotThisDatasetError: There is no such folder, or more than one.
    """
    if not source.is_dir():
        what = "a file; unpack it and give the folder" if source.exists() else "not there"
        raise NotThisDatasetError(f"--source must be the folder of {title}, but got --source={source}, which is {what}")
    level = [source]
    for _ in range(3):
        found = [folder for folder in level if holds(folder)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(folder) for folder in found)
            raise NotThisDatasetError(
                f"--source must hold {title} once, but got --source={source}, which holds {listed}. Give one of them"
            )
        level = [child for folder in level for child in _folders_in(folder)]
    raise NotThisDatasetError(
        f"--source must be the folder of {title}, but got --source={source}. Looked there, and up to two folders "
        f"below, for {wanted}; "
        f"it holds {describe(source)}"
    )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError:
        return []


def describe(folder: Path) -> str:
    """Return in words what a folder holds."""
    try:
        entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"what cannot be read: {error.strerror}"
    more = f" and {len(entries) - _NUM_NAMED:,} more" if len(entries) > _NUM_NAMED else ""
    return ", ".join(entries[:_NUM_NAMED]) + more if entries else "nothing"


def some(names: Iterable[str]) -> str:
    """Return the first few of many names."""
    listed = list(names)
    more = f" and {len(listed) - _NUM_NAMED:,} more" if len(listed) > _NUM_NAMED else ""
    return ", ".join(listed[:_NUM_NAMED]) + more


def group_rows(
    rows: NDArray[np.integer], values: NDArray[np.float32], num_rows: int
) -> tuple[NDArray[np.float32], ...]:
    """Return for each of ``num_rows`` images the values that are its, in their order.

    Args:
        rows: (M,), the image of each value.
        values: (M, K).
        num_rows: Number of images.
    """
    order = np.argsort(rows, kind="stable")
    cuts = np.searchsorted(rows[order], np.arange(1, num_rows))
    return tuple(np.split(values[order], cuts)) if num_rows else ()
