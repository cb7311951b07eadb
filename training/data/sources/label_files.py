"""Find, read and hash the label files of a source, and collect their faults."""

from __future__ import annotations

import codecs
import hashlib
import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.counts import counted
from training.data.sources.annotations import Annotations, Fault, Phase, some
from training.errors import NotThisDatasetError
from training.image_files import is_mac_twin

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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

    def text(self, path: Path) -> str | None:
        """Return a text file; a fatal fault and None if it cannot be read.

        The text may be UTF-8, or UTF-16 with a byte order mark, as a spreadsheet's "Unicode text" is.
        """
        content = self.read(path)
        if content is None:
            return None
        convert = f"iconv -f {{}} -t UTF-8 {shlex.quote(path.name)} > new.csv"
        try:
            # -sig: tables saved by Excel start with a byte order mark.
            text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            why = f"is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}. "
            self.fault(
                path,
                f'{why}Save it as "CSV UTF-8" in Excel, or convert it: {convert.format("WINDOWS-1252")}',
                line,
                fatal=True,
            )
            return None
        # UTF-16 without its mark passes as UTF-8, with a zero byte next to each plain letter.
        if "\0" in text:
            why = f"has zero bytes. If it is text in UTF-16, convert it: {convert.format('UTF-16LE')}"
            self.fault(path, why, text.count("\n", 0, text.index("\0")) + 1, fatal=True)
            return None
        return text

    def lines(self, path: Path) -> list[str] | None:
        """Return a text file's lines, without blank ones at its end; a fatal fault and None if it cannot be read."""
        text = self.text(path)
        return None if text is None else text.rstrip().splitlines()

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

    def check_images(self, phases: dict[str, Phase]) -> dict[str, Phase]:
        """Look for the listed images; note a fault for each that is missing, and one for a whole missing folder.

        Returns:
            The phases, with the names that the files really have: a Mac stores an accent as a character of its own.
        """
        # One listing per folder instead of one call per image, which would take minutes on a network disk.
        folders: dict[Path, _Folder | None] = {}
        absent: Counter[Path] = Counter()
        example: dict[Path, Path] = {}
        found: dict[str, list[str]] = {name: [] for name in phases}
        for name, phase in phases.items():
            for id, file in zip(phase.ids, phase.files, strict=True):
                path = self.root / file
                found[name].append(file)
                if ".." in Path(file).parts or Path(file).is_absolute():
                    self.fault(path, "must be inside the dataset's folder", id=id)
                    continue
                if path.parent not in folders:
                    folders[path.parent] = _list_folder(path.parent)
                folder = folders[path.parent]
                if folder is None:
                    # Report the topmost missing folder: images/ is one fault, however many folders it should contain.
                    top = _highest_absent(path.parent, self.root)
                    absent[top] += 1
                    example.setdefault(top, path)
                elif (real := folder.real_name(path.name)) is not None:
                    found[name][-1] = file[: len(file) - len(path.name)] + real
                else:
                    self.fault(path, f"is listed, but the file does not exist{folder.near(path.name)}", id=id)
        for folder_path, count in absent.items():
            what = "cannot be read" if folder_path.is_dir() else "is missing"
            why = f"the folder {what}, and {counted(count, 'listed image')} with it"
            self.fault(folder_path, why + _near_folder(folder_path, example[folder_path]))
        return {name: replace(phase, files=tuple(found[name])) for name, phase in phases.items()}

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
            notes.append(f"{counted(len(both), 'image')} are in both the training and the test set: {some(both)}")
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


class _Folder:
    """The names in a folder."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._composed: dict[str, str] = {}
        self._loose: dict[str, str] = {}

    def real_name(self, name: str) -> str | None:
        """Return how a file is spelt on disk, or None; the two spellings of an accent in Unicode are the same."""
        if name in self._names:
            return name
        # Made only once a name is not found as listed, which is rare.
        if not self._composed:
            self._composed = {unicodedata.normalize("NFC", each): each for each in self._names}
        return self._composed.get(unicodedata.normalize("NFC", name))

    def near(self, name: str) -> str:
        """Return a hint at the file that was probably meant."""
        if not self._loose:
            named = [each for each in sorted(self._names) if not is_mac_twin(each)]
            self._loose = {_without_suffix(each): each for each in named} | {each.casefold(): each for each in named}
        near = self._loose.get(name.casefold()) or self._loose.get(_without_suffix(name))
        return f"; did you mean {near!r}?" if near else ""


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0].casefold()


def _list_folder(folder: Path) -> _Folder | None:
    try:
        return _Folder({entry.name for entry in os.scandir(folder)})
    except OSError:
        return None


def _near_folder(folder: Path, image: Path) -> str:
    """Return a hint where the images of a missing folder are: in one of another case, or in the folder above."""
    beside = {entry.name for entry in os.scandir(folder.parent)}
    if image.name in beside:
        return f". {image.name!r} lies in the folder above: make {folder.name}/ and move the images into it"
    near = next((name for name in sorted(beside) if name.casefold() == folder.name.casefold() != name), None)
    return f"; did you mean {near!r}?" if near and folder.name not in beside else ""


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
    return some(entries) or "nothing"


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
    # Where each next image begins; an image without values gets an empty piece.
    cuts = np.searchsorted(rows[order], np.arange(1, num_rows))
    return tuple(np.split(values[order], cuts)) if num_rows else ()
