"""Small stores for tests of their readers, of noise that never repeats, so that no image is mistaken for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.config.run import TrainConfig
from training.data.sources.annotations import Annotations, Phase
from training.data.store.images import Encoding
from training.data.store.writer import write_store

CLASSES = ("red", "green", "blue", "grey")
NAME = "mine"


def make_annotations(
    folder: Path, num_train: int = 20, num_test: int = 6, side: int = 20, observed_only: bool = False
) -> Annotations:
    """Draw pictures of ``side`` x ``side + 4`` px into a folder; a picture's true labels are those of the colours that
    it is made of.
    """
    phases = {
        name: _phase(folder, name, count, side, observed_only)
        for name, count in (("train", num_train), ("test", num_test))
    }
    return Annotations(NAME, "pictures", folder, CLASSES, phases, {})


def make_store(
    folder: Path,
    *,
    num_train: int = 20,
    num_test: int = 6,
    image_size: int = 16,
    encoding: Encoding = "raw",
    keep_originals: bool = False,
    observed_only: bool = False,
) -> str:
    """Write a small store below a folder and return its URI."""
    annotations = make_annotations(folder / "source", num_train, num_test, observed_only=observed_only)
    uri = str(folder / "store")
    write_store(annotations, uri, image_size=image_size, keep_originals=keep_originals, encoding=encoding, workers=1)
    return uri


def store_config(uri: str, changes: dict[str, Any] | None = None) -> TrainConfig:
    """Return a configuration that trains a small network on a store of :func:`make_store`."""
    flat: dict[str, Any] = {
        "data.name": NAME,
        "data.store": uri,
        "data.image_size": 16,
        "data.num_workers": 0,
        "model.backbone": "digits/resnet12",
        "model.weights": "none",
        "optim.lr": 1e-3,
        "optim.batch_size": 4,
        "loop.epochs": 2,
        "loop.recipe": "common",
    }
    return TrainConfig.from_flat(flat).with_params(changes or {})


def _phase(folder: Path, name: str, num: int, side: int, observed_only: bool) -> Phase:
    rng = np.random.default_rng(len(name))
    true = rng.random((num, len(CLASSES))) < 0.5
    true[np.arange(num), np.arange(num) % len(CLASSES)] = True
    files = tuple(f"{name}/{row:04d}.png" for row in range(num))
    (folder / name).mkdir(parents=True)
    for row, file in enumerate(files):
        pixels = rng.integers(0, 120, (side, side + 4, 3), dtype=np.uint8)
        pixels += (100 * true[row, :3]).astype(np.uint8)
        Image.fromarray(pixels).save(folder / file)
    observed = np.zeros_like(true)
    observed[np.arange(num), np.arange(num) % len(CLASSES)] = True
    return Phase(files, files, None if observed_only else true, observed if observed_only else None)
