"""Types for the content of a dataset's own files: its images in the protocol's order, their labels, and any faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
    """

    ids: tuple[str, ...]
    files: tuple[str, ...]
    true: NDArray[np.bool_] | None
    observed: NDArray[np.bool_] | None = None
    boxes: tuple[NDArray[np.float32], ...] | None = None
    points: tuple[NDArray[np.float32], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Annotations:
    """A dataset as its own files describe it.

    Attributes:
        name: ``voc``, ``coco``, ``nuswide``, ``cub``, or the name of your own data.
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
