"""What a dataset's own files say: which images there are, in the protocol's order, and what is in them. No pixel is
read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fault:
    """Something wrong with a source.

    Attributes:
        path: The file at fault, relative to the dataset's root.
        why: What is wrong with it.
        line: Line of a text file, counted from 1, if one is at fault.
        id: The image that must be left out for it, if any.
        is_fatal: Whether labels of other images cannot be trusted for it, so that leaving images out does not mend it.
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
        ids: N names, in the order that split and draw count by.
        files: N paths of the images, relative to the source's root.
        true: bool (N, C), or None where only observed labels exist.
        observed: bool (N, C) where the source gives observed labels itself; None where they are drawn from the true
            ones.
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
    """A dataset as its files describe it.

    Attributes:
        name: ``voc``, ``coco``, ``nuswide``, ``cub``, or the name of a folder of one's own.
        layout: Which layout in the wild was found, in words.
        root: What the paths of the images are relative to.
        classes: C names, in the order of the label columns.
        phases: ``train`` (the official training set) and ``test``; ``val`` only where the source gives one.
        label_files: Path, relative to ``root`` -> sha256 of every label file that was read.
        parts: Names of the parts that ``Phase.points`` counts, if any.
        faults: What is wrong, in the order of the files.
        num_unlabelled: Images that the protocol leaves out because nothing is annotated in them (COCO), per phase.
        notes: What the user should know although nothing is wrong.
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
