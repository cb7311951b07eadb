"""Make weak and strong views of photos: flips, and RandAugment(3, 5) with torchvision's operations and magnitudes.

A view depends only on (seed, epoch, row, view), not on the batch, the rank or the worker.

Every operation gives bit for bit what torchvision's RandAugment gives for PIL images (a test compares them). Photos
stay PIL images in between, because PIL's kernels on uint8 are 2 to 30 times as fast as torchvision's on uint8 tensors
(benchmarks/pipeline/input_pipeline.py). Three operations for which PIL does more work than needed have kernels here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat
from torch import Tensor

from training.seeding import named_generator

View = Literal["weak", "strong"]

NUM_OPS = 3
MAGNITUDE = 5
NUM_BINS = 31
_FLIP_PROB = 0.5
# Bands of this many rows fit into the processor's second-level cache.
_BAND_ROWS = 32


@dataclass(frozen=True)
class Op:
    """One drawn operation of RandAugment; ``sign`` is 1 or -1, and always 1 for operations without a sign."""

    name: str
    sign: int = 1


@dataclass(frozen=True)
class ViewDraw:
    """The draw for one view of one image: the operations in their order, and whether it is mirrored afterwards."""

    ops: tuple[Op, ...]
    flip: bool


def draw_view(seed: int, epoch: int, row: int, view: View) -> ViewDraw:
    """Draw one view of one image; the weak view has no operations."""
    generator = named_generator(seed, view, epoch, row)
    # The flip is drawn first, so that it does not depend on how many numbers the operations take.
    flip = bool(torch.rand(1, generator=generator) < _FLIP_PROB)
    if view == "weak":
        return ViewDraw((), flip)
    chosen = torch.randint(len(OPS), (NUM_OPS,), generator=generator).tolist()
    signs = torch.randint(2, (NUM_OPS,), generator=generator).tolist()
    return ViewDraw(
        tuple(
            Op(name, 1 - 2 * sign if OPS[name].signed else 1) for name, sign in zip(_names(chosen), signs, strict=True)
        ),
        flip,
    )


def augment(image: Image.Image, ops: tuple[Op, ...]) -> Image.Image:
    """Apply operations to an RGB image, in order; geometric ones sample the nearest pixel and fill with black."""
    for op in ops:
        kind = OPS[op.name]
        image = kind.apply(image, op.sign * kind.magnitude(image.width, image.height))
    return image


def to_pixels(image: Image.Image, flip: bool) -> Tensor:
    """Return an RGB image as uint8 (H, W, 3), mirrored if ``flip``."""
    pixels = torch.from_numpy(np.array(image))  # np.asarray would be read-only memory of PIL
    return pixels.flip(1) if flip else pixels


@dataclass(frozen=True)
class _Kind:
    """How to apply an operation, its magnitude for an image of (width, height), and whether its sign is drawn."""

    apply: Callable[[Image.Image, float], Image.Image]
    magnitude: Callable[[int, int], float]
    signed: bool = True


@cache
def _bin(end: float, start: float = 0.0) -> float:
    # In float32, as torchvision computes it: some magnitudes are truncated to integers, and must not round differently.
    return float(torch.linspace(start, end, NUM_BINS)[MAGNITUDE])


def _affine(
    image: Image.Image, *, move: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    """Move an image, or shear it about its top left corner, as the AutoAugment code does."""
    # Maps each new pixel to the old one: x + shear_x * y - move_x, shear_y * x + y - move_y.
    inverse = (1.0, _slope(shear[0]), -move[0], _slope(shear[1]), 1.0, -move[1])
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST)


@cache
def _slope(magnitude: float) -> float:
    # Through degrees, as torchvision passes it on: rounding decides which pixel is the nearest.
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


def _shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, shear=(magnitude, 0.0))


def _shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, shear=(0.0, magnitude))


def _rotate(image: Image.Image, magnitude: float) -> Image.Image:
    return image.rotate(magnitude)


def _brightness(image: Image.Image, magnitude: float) -> Image.Image:
    return image.point(_blend_table(0, 1 + magnitude))


def _contrast(image: Image.Image, magnitude: float) -> Image.Image:
    # The grey that ImageEnhance.Contrast blends with, rounded as there.
    mean = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
    return image.point(_blend_table(mean, 1 + magnitude))


def _colour(image: Image.Image, magnitude: float) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), image, 1 + magnitude)


def _blend_table(base: int, factor: float) -> list[int]:
    """Return ``PIL.Image.blend`` of a grey and every value, for three channels: blending becomes one table look-up."""
    values = np.arange(256, dtype=np.float32)
    blended = np.float32(base) + np.float32(factor) * (values - np.float32(base))
    table: list[int] = blended.clip(0, 255).astype(np.uint8).tolist()
    return 3 * table


def _sharpness(image: Image.Image, magnitude: float) -> Image.Image:
    return Image.fromarray(sharpen(np.asarray(image), 1 + magnitude))


def sharpen(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Blend with the smoothed image, as ``PIL.ImageEnhance.Sharpness`` does, in a third of the time.

    Smoothing is (the eight neighbours + 5 x the pixel) / 13, rounded. PIL sums float products; here the sums are
    separable and in integers. The outermost pixels stay as they are.

    Args:
        pixels: (H, W, 3).
        factor: 1 is the identity, 0 the smoothed image.
    """
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels)
    result = flat.copy()
    for top in range(1, height - 1, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height - 1)
        wide = flat[top - 1 : bottom + 1].astype(np.uint16)
        centre = wide[1:-1, channels:-channels]
        columns = wide[:-2] + wide[1:-1] + wide[2:]
        smoothed = (
            columns[:, : -2 * channels] + columns[:, channels:-channels] + columns[:, 2 * channels :] + 4 * centre
        )
        smoothed += 6  # half of 13, so that the division rounds
        smoothed //= 13
        blended = (centre.astype(np.int16) - smoothed.astype(np.int16)).astype(np.float32)
        blended *= np.float32(factor)
        blended += smoothed
        result[top:bottom, channels:-channels] = blended.clip(0, 255, out=blended)
    return result.reshape(height, width, channels)


# 150 / 331: up to 150 px for images of 331 px, the size that AutoAugment was searched at.
OPS: dict[str, _Kind] = {
    "Identity": _Kind(lambda image, _: image, lambda *_: 0.0, signed=False),
    "ShearX": _Kind(_shear_x, lambda *_: _bin(0.3)),
    "ShearY": _Kind(_shear_y, lambda *_: _bin(0.3)),
    "TranslateX": _Kind(lambda image, by: _affine(image, move=(int(by), 0)), lambda width, _: _bin(150 / 331 * width)),
    "TranslateY": _Kind(
        lambda image, by: _affine(image, move=(0, int(by))), lambda _, height: _bin(150 / 331 * height)
    ),
    "Rotate": _Kind(_rotate, lambda *_: _bin(30.0)),
    "Brightness": _Kind(_brightness, lambda *_: _bin(0.9)),
    "Color": _Kind(_colour, lambda *_: _bin(0.9)),
    "Contrast": _Kind(_contrast, lambda *_: _bin(0.9)),
    "Sharpness": _Kind(_sharpness, lambda *_: _bin(0.9)),
    "Posterize": _Kind(
        lambda image, bits: ImageOps.posterize(image, int(bits)), lambda *_: _posterize_bits(), signed=False
    ),
    "Solarize": _Kind(lambda image, limit: ImageOps.solarize(image, limit), lambda *_: _bin(0.0, 255.0), signed=False),  # type: ignore[arg-type]
    "AutoContrast": _Kind(lambda image, _: ImageOps.autocontrast(image), lambda *_: 0.0, signed=False),
    "Equalize": _Kind(lambda image, _: ImageOps.equalize(image), lambda *_: 0.0, signed=False),
}
"""RandAugment's operations under torchvision's names and in its order, which the draws index."""


def _names(indices: list[int]) -> list[str]:
    names = list(OPS)
    return [names[index] for index in indices]


def _posterize_bits() -> float:
    return 8.0 - round(MAGNITUDE / ((NUM_BINS - 1) / 4))
