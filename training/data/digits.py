"""Make digit scenes, the embedded dataset, from data that ships with scikit-learn; nothing is downloaded.

A scene is a 40 x 40 RGB image of one to four handwritten digits (8 x 8 pixels originally) on a dimmed crop of a photo,
with its true labels and boxes. Digits and photo strips are disjoint between the splits.

Scenes are a function of (recipe version, scene seed, counts), and cached. Each split has a file of its own, so a
process that is given train and val cannot reach test.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from training.data.protocol import draw_single_positives
from training.data.split import InMemoryImages, SplitData
from training.errors import DatasetError
from training.seeding import derive_seed

# Increase it with every change that alters a scene: it is part of the cache key, and old scenes would be used
# otherwise.
RECIPE_VERSION = 2
IMAGE_SIZE = 40
NUM_CLASSES = 10
CLASSES = tuple(str(digit) for digit in range(NUM_CLASSES))
DEFAULT_COUNTS = {"train": 1500, "val": 500, "test": 1000}
PRETEXT_IMAGES = 1280

# Ranges of each class's digits and of each photo's width: no split sees another split's raw material.
_SOURCE_FRACS = {"train": (0.0, 0.60), "val": (0.60, 0.75), "test": (0.75, 1.0)}
# Of one, two, three and four digits in a scene: 2.55 on average.
_NUM_DIGITS_PROBS = (0.15, 0.35, 0.30, 0.20)
# Some classes occur together more often, as in photos, so that methods that use such correlations find some.
_PARTNER_STEPS = (1, 5)
_PARTNER_WEIGHT = 4.0
_SIZES_PX = (12, 14, 16)
_MAX_BOXES = len(_NUM_DIGITS_PROBS)
_PHOTO_SHRINK = 2
_NOISE = 0.03

Pixels = NDArray[np.float32]
Box = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class DigitsSpec:
    """Everything that digit scenes depend on; its JSON is the cache key.

    Attributes:
        scene_seed: Seed of everything that is drawn.
        num_train, num_val, num_test: Scenes per split.
    """

    scene_seed: int = 0
    num_train: int = DEFAULT_COUNTS["train"]
    num_val: int = DEFAULT_COUNTS["val"]
    num_test: int = DEFAULT_COUNTS["test"]
    recipe_version: int = RECIPE_VERSION

    @property
    def key(self) -> str:
        """Twelve hex digits that name the cache folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _RawMaterial:
    """Raw material of one split: digits by class, each at every size and in [0, 1], and a strip of each photo."""

    digits: dict[int, list[dict[int, Pixels]]]
    strips: list[Pixels]


def digits_folder(spec: DigitsSpec, cache: Path) -> Path:
    """Return the folder of the scenes of ``spec`` in the cache."""
    return cache / "digits" / spec.key


def make_scenes(spec: DigitsSpec, split: str) -> dict[str, Tensor]:
    """Make the scenes of one split.

    Returns:
        ``images`` uint8 (N, 3, 40, 40), ``true`` bool (N, 10), ``boxes`` int16 (N, 4, 5) of (class, left, top, right,
        bottom) in px, padded with -1.
    """
    # Each split has its own random stream, so more scenes in one split change nothing in the others.
    stream = np.random.default_rng(derive_seed("digits", spec.scene_seed, split))
    material = _load_raw_material(spec.scene_seed, split)
    count = int(getattr(spec, f"num_{split}"))
    images = np.empty((count, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    true = np.zeros((count, NUM_CLASSES), bool)
    boxes = np.full((count, _MAX_BOXES, 5), -1, np.int16)
    for row in range(count):
        classes = _draw_classes(stream)
        images[row], placed = _compose(classes, material, stream)
        true[row, [box[0] for box in placed]] = True
        boxes[row, : len(placed)] = placed
    return {"images": torch.from_numpy(images), "true": torch.from_numpy(true), "boxes": torch.from_numpy(boxes)}


def make_pretext_images(spec: DigitsSpec) -> tuple[Tensor, Tensor]:
    """Make single digits turned by 90 degrees, from the digits of train only: the pretext task of the trunk.

    A turned 0 is still a 0, so the task leaks a little of that class.

    Returns:
        Images uint8 (N, 3, 40, 40) and classes long (N,).
    """
    stream = np.random.default_rng(derive_seed("digits-pretext", spec.scene_seed))
    material = _load_raw_material(spec.scene_seed, "train")
    turned = {
        label: [{size: np.rot90(digit).copy() for size, digit in sizes.items()} for sizes in digits]
        for label, digits in material.digits.items()
    }
    material = _RawMaterial(turned, material.strips)
    classes = stream.integers(0, NUM_CLASSES, PRETEXT_IMAGES)
    images = np.stack([_compose([int(label)], material, stream)[0] for label in classes])
    return torch.from_numpy(images), torch.from_numpy(classes)


def read_split(folder: Path, split: str, draw_seed: int) -> SplitData:
    """Read one split of prepared scenes and draw its single positives.

    Raises:
        DatasetError: The scenes are missing or damaged.
    """
    tensors = load_file(checked_file(folder, f"{split}.safetensors", read_scenes_manifest(folder).splits[split]))
    # RandomState takes seeds of 32 bits.
    observed = draw_single_positives(tensors["true"].numpy(), derive_seed(draw_seed, split) % 2**32)
    return SplitData(
        name=split,
        images=InMemoryImages(tensors["images"]),
        true=tensors["true"],
        observed=torch.from_numpy(observed),
        boxes=tensors["boxes"],
        classes=CLASSES,
    )


def checked_file(folder: Path, name: str, sha256: str) -> Path:
    """Return the path of a file of prepared scenes.

    Raises:
        DatasetError: It is missing or damaged.
    """
    path = folder / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise DatasetError(
            f"The digit scenes are damaged: {path} does not match their manifest. Delete {folder}: "
            f"the next run recreates it"
        )
    return path


@dataclass(frozen=True)
class ScenesManifest:
    """Content of the ``manifest.json`` of prepared scenes.

    Attributes:
        splits: Split -> sha256 of its file.
        data_hash: sha256 over the splits' hashes.
        trunk: sha256 of the trunk's file.
        mean, std: Per channel, of the training images in [0, 1].
    """

    splits: dict[str, str]
    data_hash: str
    trunk: str
    mean: list[float]
    std: list[float]


def read_scenes_manifest(folder: Path) -> ScenesManifest:
    """Read the manifest of prepared scenes.

    Raises:
        DatasetError: It is missing or damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DatasetError(
            f"The digit scenes are not prepared: {path} does not exist. Every command that trains makes them"
        )
    try:
        found = ScenesManifest(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(found.splits, dict) or not isinstance(found.mean, list) or not isinstance(found.std, list):
            raise ValueError("splits, mean or std is missing")
        return found
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path} is damaged: {error}. Delete {folder}: the next run recreates it") from error


def _load_raw_material(scene_seed: int, split: str) -> _RawMaterial:
    # Imported here: it takes a second, and cached scenes do not need it.
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = torch.from_numpy(raw.images.astype(np.float32) / 16.0)
    sized = {size: interpolate(pixels[:, None], size=size, mode="bilinear")[:, 0].numpy() for size in _SIZES_PX}
    low, high = _SOURCE_FRACS[split]
    # The seed does not depend on the split: the shares are disjoint only if all splits use the same permutation.
    stream = np.random.default_rng(derive_seed("digits-sources", scene_seed))
    digits = {}
    for label in range(NUM_CLASSES):
        rows = stream.permutation(np.nonzero(raw.target == label)[0])
        chosen = rows[round(low * len(rows)) : round(high * len(rows))]
        digits[label] = [{size: sized[size][row] for size in _SIZES_PX} for row in chosen]
    return _RawMaterial(
        digits, [photo[:, :, round(low * photo.shape[2]) : round(high * photo.shape[2])] for photo in _load_photos()]
    )


def _load_photos() -> list[Pixels]:
    photos = []
    for name in ("china.jpg", "flower.jpg"):
        with (
            resources.as_file(resources.files("sklearn.datasets.images") / name) as path,
            Image.open(path, formats=("JPEG",)) as image,
        ):
            photos.append(np.asarray(image.convert("RGB").reduce(_PHOTO_SHRINK), np.float32).transpose(2, 0, 1) / 255.0)
    return photos


def _draw_classes(stream: np.random.Generator) -> list[int]:
    """Draw the classes of a scene; partners (c + 1 and c + 5, mod 10) of a drawn class are four times as likely."""
    classes: list[int] = []
    for _ in range(1 + stream.choice(len(_NUM_DIGITS_PROBS), p=_NUM_DIGITS_PROBS)):
        weights = np.ones(NUM_CLASSES)
        for present in classes:
            weights[[(present + step) % NUM_CLASSES for step in _PARTNER_STEPS]] = _PARTNER_WEIGHT
        weights[classes] = 0  # each class at most once
        classes.append(int(stream.choice(NUM_CLASSES, p=weights / weights.sum())))
    return classes


def _compose(
    classes: list[int], material: _RawMaterial, stream: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Box]]:
    """Paint one scene: its pixels (3, H, W) and its boxes (class, left, top, right, bottom)."""
    canvas = _draw_background(material.strips, stream)
    digits, places, taken = _lay_out(classes, material, stream)
    for digit, place in zip(digits, places, strict=True):
        _paint(canvas, digit, place, stream)
    # Strokes without a class, so that a map that lights up on any stroke is wrong.
    if stream.random() < 0.5:
        _add_distractor(canvas, taken, material, stream)
    canvas += stream.normal(0, _NOISE, canvas.shape).astype(np.float32)
    boxes: list[Box] = [
        (label, left, top, left + len(digit), top + len(digit))
        for label, digit, (top, left) in zip(classes, digits, places, strict=True)
    ]
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8), boxes


def _lay_out(
    classes: list[int], material: _RawMaterial, stream: np.random.Generator
) -> tuple[list[Pixels], list[tuple[int, int]], NDArray[np.bool_]]:
    """Draw a digit and a free place for every class; start again until all fit."""
    # The whole scene is drawn again: if the placed digits were kept, there might never be room for the rest.
    while True:
        taken = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
        digits = [_draw_digit(material.digits[label], stream) for label in classes]
        places = [_free_place(taken, len(digit), stream) for digit in digits]
        found = [place for place in places if place is not None]
        if len(found) == len(classes):
            return digits, found, taken


def _draw_background(strips: list[Pixels], stream: np.random.Generator) -> Pixels:
    strip = strips[stream.integers(len(strips))]
    top = stream.integers(strip.shape[1] - IMAGE_SIZE + 1)
    left = stream.integers(strip.shape[2] - IMAGE_SIZE + 1)
    # Dimmed to at most 0.42: the colours of digits start at 0.55.
    return np.float32(0.12) + np.float32(0.3) * strip[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _draw_digit(digits: list[dict[int, Pixels]], stream: np.random.Generator) -> Pixels:
    return digits[stream.integers(len(digits))][_SIZES_PX[stream.integers(len(_SIZES_PX))]]


def _free_place(taken: NDArray[np.bool_], size: int, stream: np.random.Generator) -> tuple[int, int] | None:
    """Draw a place that no object covers, and mark it as taken; None if none was found."""
    # With a limit, because there may be no room left. The caller then draws the scene again, or leaves the distractor
    # out.
    for _ in range(60):
        top, left = (int(value) for value in stream.integers(0, IMAGE_SIZE - size + 1, 2))
        window = taken[top : top + size, left : left + size]
        if not window.any():
            window[:] = True
            return top, left
    return None


def _paint(canvas: Pixels, digit: Pixels, place: tuple[int, int], stream: np.random.Generator) -> None:
    colour = stream.uniform(0.55, 1.0, 3).astype(np.float32)
    alpha = digit * np.float32(stream.uniform(0.6, 1.0))
    top, left = place
    window = canvas[:, top : top + len(digit), left : left + len(digit)]
    window += alpha * (colour[:, None, None] - window)


def _add_distractor(
    canvas: Pixels, taken: NDArray[np.bool_], material: _RawMaterial, stream: np.random.Generator
) -> None:
    """Paint a digit whose 2 x 2 blocks are shuffled: strokes without a class."""
    digit = _draw_digit(material.digits[int(stream.integers(NUM_CLASSES))], stream)
    place = _free_place(taken, len(digit), stream)
    if place is None:
        return
    half = len(digit) // 2
    blocks = [digit[:half, :half], digit[:half, half:], digit[half:, :half], digit[half:, half:]]
    order = np.arange(4)  # unchanged, it would be a digit without a label
    while (order == np.arange(4)).all():
        order = stream.permutation(4)
    a, b, c, d = (blocks[index] for index in order)
    _paint(canvas, np.block([[a, b], [c, d]]), place, stream)
