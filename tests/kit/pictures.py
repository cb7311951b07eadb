"""A source of small pictures with labels drawn from a seed, for tests of what comes after the readers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.sources.annotations import Annotations, Phase

CLASSES = ("cat", "dog", "mug")


def make_source(
    folder: Path,
    *,
    num_train: int = 20,
    num_test: int = 6,
    num_val: int = 0,
    boxes: bool = True,
    has_true: bool = True,
    has_observed: bool = False,
    write: bool = True,
) -> Annotations:
    """Write JPEGs of 40 x 30 px, noise on one colour, and return what is in them.

    The fourth image of a phase has no positive.

    With ``write`` False the pictures exist already, and only their content is returned.
    """
    stream = np.random.default_rng(7)
    phases = {}
    for name, count in (("train", num_train), ("val", num_val), ("test", num_test)):
        if not count:
            continue
        ids = tuple(f"{name}{row:04d}" for row in range(count))
        files = tuple(f"images/{each}.jpg" for each in ids)
        for file in files:
            write_picture(folder / file, stream, write=write)
        true = stream.random((count, len(CLASSES))) < 0.5
        true[:, 0] |= ~true.any(1)
        true[3:4] = False
        observed = np.zeros_like(true)
        observed[np.arange(count), true.argmax(1)] = true.any(1)
        phases[name] = Phase(
            ids=ids,
            files=files,
            true=true if has_true else None,
            observed=observed if has_observed or not has_true else None,
            boxes=tuple(
                np.array([[k, 4, 3, 20, 15] for k in np.nonzero(row)[0]], np.float32).reshape(-1, 5) for row in true
            )
            if boxes
            else None,
            points=tuple(np.array([[0, 8.0, 6.0]], np.float32) for _ in ids) if boxes else None,
        )
    parts = ("nose",) if boxes else ()
    labels = {"labels.csv": hashlib.sha256(b"labels").hexdigest()}
    return Annotations("mine", "drawn by a test", folder, CLASSES, phases, labels, parts)


def write_picture(
    path: Path, stream: np.random.Generator, size: tuple[int, int] = (40, 30), *, write: bool = True
) -> None:
    """Write one JPEG of noise on one colour."""
    pixels = stream.integers(0, 200, 3) + stream.integers(0, 55, (size[1], size[0], 3))
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
