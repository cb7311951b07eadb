"""Find, read and hash the label files of a source, and collect their faults."""

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
    """Reads the files of one source, keeps their hashes, and collects faults instead of raising at the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def name(self, path: Path) -> str:
        """Return a path relative to the root, with forward slashes; a file outside the root becomes ``../name``."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else f"../{path.name}"

    def fault(
        self, path: Path, why: str, line: int | None = None, id: str | None = None, *, fatal: bool = False
    ) -> None:
        """Note a fault of a file; it is ``fatal`` if the labels of other images cannot be trusted either."""
        self.faults.append(Fault(self.name(path), why, line, id, fatal))

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; note a fatal fault and return None if it cannot be read."""
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
        """Return a text file's lines, without blank ones at its end; a fatal fault and None if it cannot be read."""
        content = self.read(path)
        if content is None:
            return None
        try:
            # -sig: tables saved by Excel start with a byte order mark.
            return content.decode("utf-8-sig").rstrip().splitlines()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.fault(path, f"is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}", line, fatal=True)
            return None

    def unique_lines(self, path: Path) -> dict[str, int]:
        """Return id -> line for the ids in a list, stripped; an id that occurs twice is a fault."""
        found: dict[str, int] = {}
        for number, line in enumerate(self.lines(path) or (), 1):
            id = line.strip()
            if id in found:
                self.fault(path, f"{id!r} is listed twice, first in line {found[id]}", number)
            elif id:
                found[id] = number
        return found

    def numbered_lines(self, path: Path) -> dict[int, str]:
        """Return number -> value of a list whose lines are a number, a space and a value, as in CUB."""
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
        """Note a fault for each listed image without a file, but only one for a folder that is missing entirely."""
        # One listing per folder instead of one call per image, which would take minutes on a network disk.
        in_folder: dict[Path, set[str] | None] = {}
        absent: Counter[Path] = Counter()
        for id, file in zip(phase.ids, phase.files, strict=True):
            path = self.root / file
            if ".." in Path(file).parts or Path(file).is_absolute():
                self.fault(path, "must be inside the dataset's folder", id=id)
                continue
            if path.parent not in in_folder:
                in_folder[path.parent] = _names_in(path.parent)
            names = in_folder[path.parent]
            if names is None:
                # Report the topmost missing folder: images/ is one fault, however many folders it should contain.
                absent[_highest_absent(path.parent, self.root)] += 1
            elif path.name not in names:
                self.fault(path, "is listed, but the file does not exist", id=id)
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
        """Return all that was read, with hashes, faults and notes."""
        train, test = (set(phases[phase].ids) if phase in phases else set() for phase in ("train", "test"))
        notes = list(self.notes)
        if both := sorted(train & test):
            notes.append(f"{len(both):,} images are both in the training and in the test set: {some(both)}")
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
    """Return the folder that holds a dataset: the source, or a folder up to two levels below it.

    Args:
        source: The folder that the user gave.
        title: The dataset's title, for the message.
        wanted: The files looked for, for the message.
        holds: Returns whether a folder holds the dataset.

    Raises:
        NotThisDatasetError: No such folder was found, or several.
    """
    if not source.is_dir():
        what = "is a file. Unpack it and give the folder" if source.exists() else "does not exist"
        raise NotThisDatasetError(f"--source must be the folder of {title}, but {source} {what}")
    # Level by level: a dataset's own folder takes precedence over copies of its files further down.
    level = [source]
    for _ in range(3):
        found = [folder for folder in level if holds(folder)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(folder) for folder in found)
            raise NotThisDatasetError(f"--source={source} holds {title} more than once: {listed}. Give one of them")
        level = [child for folder in level for child in _folders_in(folder)]
    raise NotThisDatasetError(
        f"Could not find {title} in --source={source}. Looked there, and up to two folders below, for {wanted}. "
        f"The folder holds {describe(source)}"
    )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError:
        return []


def describe(folder: Path) -> str:
    """Return the content of a folder in words."""
    try:
        entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    more = f" and {len(entries) - _NUM_NAMED:,} more" if len(entries) > _NUM_NAMED else ""
    return ", ".join(entries[:_NUM_NAMED]) + more if entries else "nothing"


def some(names: Iterable[str]) -> str:
    """Return the first few of many names, and the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - _NUM_NAMED:,} more" if len(listed) > _NUM_NAMED else ""
    return ", ".join(listed[:_NUM_NAMED]) + more


def group_rows(
    rows: NDArray[np.integer], values: NDArray[np.float32], num_rows: int
) -> tuple[NDArray[np.float32], ...]:
    """Return for each of ``num_rows`` images its values, in their order.

    Args:
        rows: (M,), the image of each value.
        values: (M, K).
        num_rows: Number of images.
    """
    order = np.argsort(rows, kind="stable")
    cuts = np.searchsorted(rows[order], np.arange(1, num_rows))
    return tuple(np.split(values[order], cuts)) if num_rows else ()
