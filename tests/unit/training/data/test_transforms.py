"""Test views of photos: torchvision's RandAugment bit for bit, drawn for each image, epoch, seed and view."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.autoaugment import _apply_op

from training.data.transforms import MAGNITUDE, NUM_BINS, OPS, Op, ViewDraw, augment, draw_view, sharpen, to_pixels

SIZES = ((64, 64), (97, 61))


def photos(size: tuple[int, int]) -> list[Image.Image]:
    """Return noise and the busy centres of two photos."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    crops = [pixels[100 : 100 + 2 * size[1], 200 : 200 + 2 * size[0]] for pixels in load_sample_images().images]
    return [
        *(Image.fromarray(crop).resize(size) for crop in crops),
        Image.fromarray(noise),
        Image.new("RGB", size, (7, 7, 7)),
    ]


def torchvisions(image: Image.Image, name: str, sign: int) -> Image.Image:
    magnitudes, signed = RandAugment(3, MAGNITUDE)._augmentation_space(NUM_BINS, (image.height, image.width))[name]
    magnitude = float(magnitudes[MAGNITUDE]) if magnitudes.ndim > 0 else 0.0
    assert signed == OPS[name].signed
    result: Image.Image = _apply_op(image, name, sign * magnitude, InterpolationMode.NEAREST, None)
    return result


def test_operations_are_torchvisions_in_its_order() -> None:
    assert list(OPS) == list(RandAugment()._augmentation_space(NUM_BINS, (10, 10)))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_operation_gives_what_torchvision_gives(name: str, size: tuple[int, int]) -> None:
    changed = 0
    for image in photos(size):
        for sign in (1, -1) if OPS[name].signed else (1,):
            ours, theirs = np.asarray(augment(image, (Op(name, sign),))), np.asarray(torchvisions(image, name, sign))
            np.testing.assert_array_equal(ours, theirs)
            changed += int((ours != np.asarray(image)).any())
    assert changed > 1 or name == "Identity", "the test would not tell"


def test_operations_follow_one_another() -> None:
    ops = (Op("Rotate", -1), Op("Sharpness", 1), Op("Equalize"))
    for image in photos((64, 64)):
        expected = image
        for op in ops:
            expected = torchvisions(expected, op.name, op.sign)
        np.testing.assert_array_equal(np.asarray(augment(image, ops)), np.asarray(expected))


@pytest.mark.parametrize("factor", [0.0, 0.85, 1.0, 1.15, 1.9])
def test_sharpening_is_pils_for_all_pairs_of_pixel_and_neighbourhood(factor: float) -> None:
    # Each 3 x 3 block of one value around another: every (smoothed, centre) pair that there is, up to the sum of the
    # neighbours.
    around, centre = np.meshgrid(np.arange(0, 256, 3), np.arange(256), indexing="ij")
    blocks = np.repeat(np.repeat(around, 3, 0), 3, 1)
    blocks[1::3, 1::3] = centre
    pixels = np.stack([blocks] * 3, 2).astype(np.uint8)
    expected = np.asarray(ImageEnhance.Sharpness(Image.fromarray(pixels)).enhance(factor))
    np.testing.assert_array_equal(sharpen(pixels, factor), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (9, 34), (5, 66)], ids=str)
def test_images_of_any_size_are_sharpened(size: tuple[int, int]) -> None:
    image = photos(size)[2]
    np.testing.assert_array_equal(
        sharpen(np.asarray(image), 1.15), np.asarray(ImageEnhance.Sharpness(image).enhance(1.15))
    )


def test_draws_are_functions_of_seed_epoch_row_and_view() -> None:
    base = draw_view(0, 1, 5, "strong")
    assert draw_view(0, 1, 5, "strong") == base
    others = [
        draw_view(*key)
        for row in range(20)
        for key in ((1, 1, row, "strong"), (0, 2, row, "strong"), (0, 1, row + 6, "strong"))
    ]
    assert sum(draw == base for draw in others) <= 1
    assert all(draw_view(0, 1, row, "weak").ops == () for row in range(20))


def test_flips_of_the_two_views_are_independent_and_fair() -> None:
    counts = Counter((draw_view(0, 1, row, "weak").flip, draw_view(0, 1, row, "strong").flip) for row in range(2000))
    assert all(abs(counts[weak, strong] - 500) < 80 for weak in (True, False) for strong in (True, False))


def test_every_operation_and_sign_is_drawn_equally_often() -> None:
    draws = [draw_view(3, 1, row, "strong").ops for row in range(2800)]
    assert {len(ops) for ops in draws} == {3}
    for place in range(3):
        counts = Counter(ops[place].name for ops in draws)
        assert all(abs(counts[name] - 200) < 60 for name in OPS)
    signs = Counter(op.sign for ops in draws for op in ops if OPS[op.name].signed)
    assert abs(signs[1] - signs[-1]) < 400
    assert {op.sign for ops in draws for op in ops if not OPS[op.name].signed} == {1}
    assert len({ops[0].name == ops[1].name for ops in draws}) == 2, "drawn with replacement"


def test_mirrored_pixels() -> None:
    image = photos((9, 5))[2]
    assert to_pixels(image, False).shape == (5, 9, 3)
    assert torch.equal(to_pixels(image, True), to_pixels(image, False).flip(1))
    assert ViewDraw((), True) != ViewDraw((), False)
