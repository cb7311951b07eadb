"""Types for the content of a dataset's own files: its images in the protocol's order, their labels, and any faults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.counts import counted

_NUM_NAMED = 6
_MOST_CAUSES = 8
# Quoted words and numbers: what differs between two places with the same mistake.
_PARTICULARS = re.compile(r"'[^']*'|\d[\d,.]*")


def some(names: Iterable[object]) -> str:
    """Return the first few of many names, and the number of the others."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _NUM_NAMED:,} more" if len(listed) > _NUM_NAMED else ""
    return ", ".join(listed[:_NUM_NAMED]) + more


@dataclass(frozen=True)
class Fault:
    """Something wrong with a source.

    Attributes:
        path: The file, relative to the dataset's root.
        why: What is wrong with it.
        line: The line of a text file, counted from 1, if one is wrong.
        id: The image that must be left out because of it, if any.
        is_fatal: Whether the labels of other images cannot be trusted either, so that leaving images out does not help.
    """

    path: str
    why: str
    line: int | None = None
    id: str | None = None
    is_fatal: bool = False

    def __str__(self) -> str:
        return f"{self.path}{'' if self.line is None else f':{self.line}'}: {self.why}"

    @property
    def cause(self) -> tuple[str, str]:
        """What the same mistake in another line or file has in common with this one."""
        why = self.why if self.id is None else self.why.replace(self.id, "*")
        # Lines are grouped within their file, whole files with one another.
        return self.path if self.line is not None else "", _PARTICULARS.sub("*", why)


def describe_faults(faults: Iterable[Fault]) -> list[str]:
    """Return faults as a few lines: those that make labels useless first, and one line for all of the same cause."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in sorted(dict.fromkeys(faults), key=lambda fault: not fault.is_fatal):
        groups.setdefault(fault.cause, []).append(fault)
    causes = list(groups.values())
    lines = [_describe_group(group) for group in causes[:_MOST_CAUSES]]
    if left := causes[_MOST_CAUSES:]:
        lines.append(f"and {sum(map(len, left)):,} more of {counted(len(left), 'other kind')}")
    return lines


def _describe_group(group: Sequence[Fault]) -> str:
    first, *others = group
    if not others:
        return str(first)
    places = dict.fromkeys(fault.path if fault.line is None else str(fault.line) for fault in others)
    noun = "file" if first.line is None else "line"
    sentence = f"{first!s}{'' if first.why.endswith(('.', '?')) else '.'}"
    return f"{sentence} The same for {counted(len(places), f'more {noun}')}: {some(places)}"


@dataclass(frozen=True)
class Phase:
    """One official set of images, before any split or draw.

    Attributes:
        ids: N names, in the order that split and draw rely on.
        files: N paths of the images, relative to the source's root.
        true: bool (N, C), or None where only observed labels exist.
        observed: bool (N, C) if the source gives observed labels itself; None if they are drawn from the true ones.
        boxes: For each image float32 (M, 5) of (class, left, top, right, bottom) in px of the original, counted from 0,
            right and bottom exclusive; or None.
        points: For each image float32 (M, 3) of (part, x, y) in px of the original, visible parts only; or None.
        negatives: How labels are known to be negative (``given``, ``range``, ``checklist``) -> bool (N, C), which.
        recordings: For each image the recording, or whatever else, that it is a part of; or None.
    """

    ids: tuple[str, ...]
    files: tuple[str, ...]
    true: NDArray[np.bool_] | None
    observed: NDArray[np.bool_] | None = None
    boxes: tuple[NDArray[np.float32], ...] | None = None
    points: tuple[NDArray[np.float32], ...] | None = None
    negatives: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    recordings: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def join_negatives(kinds: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_] | None:
    """Return the labels (N, C) that are known to be negative in any way, or None if there is no such way."""
    return np.asarray(np.stack(list(kinds.values())).any(0), bool) if kinds else None


@dataclass(frozen=True)
class Annotations:
    """A dataset as its own files describe it.

    Attributes:
        name: ``voc``, ``coco``, ``nuswide``, ``cub``, ``l48``, or the name of your own data.
        layout: The layout that was found, in words; some datasets circulate in several layouts.
        root: The folder that the paths of images are relative to.
        classes: C names, in the order of the label columns.
        phases: ``train`` (the official training set) and ``test``; ``val`` only where the source gives one.
        label_files: Path, relative to ``root`` -> sha256 of every label file that was read.
        parts: Names of the parts that ``Phase.points`` is numbered by, if any.
        faults: What is wrong, in the order of the files.
        num_unlabelled: Per phase, images without any annotation, which the protocol leaves out (COCO).
        notes: What the user should know even though nothing is wrong.
    """

    name: str
    layout: str
    root: Path
    classes: tuple[str, ...]
    phases: dict[str, Phase]
    label_files: dict[str, str]
    parts: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    num_unlabelled: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
