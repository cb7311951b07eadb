"""Test the weak and strong views of digit scenes."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.views import MAX_SHIFT_PX, PixelScale, StrongParams, draw_shifts, draw_strong, shift, strengthen
from training.seeding import named_generator

NUM, SIZE = 12, 16


def images() -> Tensor:
    return torch.randint(0, 256, (NUM, 3, SIZE, SIZE), generator=named_generator("images"), dtype=torch.uint8)


def strong(strength: float) -> StrongParams:
    return draw_strong(NUM, SIZE, strength, named_generator("strong"))


def test_shift_moves_and_repeats_the_border() -> None:
    picture = images()[:1]
    down, right = 2, 3
    moved = shift(picture, torch.tensor([[MAX_SHIFT_PX - down, MAX_SHIFT_PX - right]]))[0]
    assert torch.equal(moved[:, down:, right:], picture[0, :, :-down, :-right].float())
    assert torch.equal(moved[:, 0, right:], picture[0, :, 0, :-right].float())
    assert torch.equal(moved[:, down:, 0], picture[0, :, :-down, 0].float())


def test_shift_by_nothing_is_the_image() -> None:
    assert torch.equal(shift(images(), torch.full((NUM, 2), MAX_SHIFT_PX)), images().float())


def test_shifts_are_of_up_to_three_pixels_either_way() -> None:
    shifts = draw_shifts(5000, named_generator("shifts"))
    assert sorted(set(shifts.flatten().tolist())) == list(range(2 * MAX_SHIFT_PX + 1))


def test_strength_zero_is_the_identity() -> None:
    torch.testing.assert_close(
        strengthen(images(), strong(0.0), torch.arange(NUM)), images().float(), rtol=0, atol=1e-2
    )


def test_strength_scales_every_range() -> None:
    changes = []
    for strength in (0.25, 0.5, 1.0):
        params = strong(strength)
        assert torch.allclose(params.noise, strength * strong(1.0).noise)
        changes.append(float((strengthen(images(), params, torch.arange(NUM)) - images()).abs().mean()))
    assert changes == sorted(changes)
    assert (strong(1.0).affine[:, :, :2] - torch.eye(2)).abs().amax() < 1
    assert ((strong(1.0).gain > 0.4) & (strong(1.0).gain < 1.9)).all()


def test_strong_view_stays_in_the_range_of_pixels() -> None:
    views = strengthen(images(), strong(2.0), torch.arange(NUM))
    assert views.amin() >= 0
    assert views.amax() <= 255


def test_what_an_image_becomes_depends_on_its_index_not_on_its_batch() -> None:
    shifts, params, scale = draw_shifts(NUM, named_generator("weak")), strong(0.7), PixelScale.of(images())
    together = torch.arange(NUM)
    weak = scale.normalise(shift(images(), shifts))
    strengthened = scale.normalise(strengthen(images(), params, together))
    for rows in [torch.tensor([7]), torch.tensor([9, 2, 5]), torch.arange(NUM).flip(0)]:
        assert torch.equal(scale.normalise(shift(images()[rows], shifts[rows])), weak[rows])
        assert torch.equal(scale.normalise(strengthen(images()[rows], params, rows)), strengthened[rows])


def test_views_of_no_image_are_no_views() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert shift(images()[:0], torch.zeros(0, 2, dtype=torch.long)).shape == (0, 3, SIZE, SIZE)
    assert strengthen(images()[:0], strong(1.0), nothing).shape == (0, 3, SIZE, SIZE)


def test_zero_is_the_mean_colour_after_normalisation() -> None:
    scale = PixelScale.of(images())
    normalised = scale.normalise(images())
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    mean_colour = 255 * scale.mean.view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.equal(scale.normalise(mean_colour), torch.zeros(1, 3, 4, 4))
