"""Make weak and strong views of digit scenes.

Parameters are drawn for the whole split at once, one row per example, from a generator named by (seed, epoch, view).
So a view depends neither on the batch that it is in nor on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

MAX_SHIFT_PX = 3
_ROTATION_RAD = 0.35
_SCALE = 0.2
_SHEAR = 0.2
_BRIGHTNESS = 0.4
_COLOUR = 0.3
_NOISE = 0.06


@dataclass(frozen=True)
class PixelScale:
    """Per-channel mean and deviation of the training images in [0, 1], each (3,)."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Tensor) -> PixelScale:
        """Return the scale of uint8 images (N, 3, H, W)."""
        pixels = images.float() / 255
        return cls(pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)))

    def normalise(self, images: Tensor) -> Tensor:
        """Scale uint8 or float images in [0, 255] to zero mean and unit deviation, so that 0 is the mean colour."""
        num, channels, height, width = images.shape
        scaled = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
        # In place and over whole rows of pixels: at 448 px, another tensor or a loop over channels would cost more than
        # the arithmetic.
        rows = scaled.permute(0, 2, 3, 1).view(num, height, width * channels)
        mean, std = (
            (255 * values).repeat(width).to(images.device, non_blocking=True) for values in (self.mean, self.std)
        )
        rows.sub_(mean).div_(std)
        return scaled


IMAGENET_SCALE = PixelScale(torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
"""The scale of ImageNet's training images, as in torchvision and timm."""

UNIT_SCALE = PixelScale(torch.zeros(3), torch.ones(3))
"""Leaves pixels in [0, 1]."""


@dataclass(frozen=True)
class StrongParams:
    """Parameters of the strong view, one row per example.

    Attributes:
        affine: (N, 2, 3).
        gain: (N, 3).
        noise: (N, 3, H, W), for pixels in [0, 255].
    """

    affine: Tensor
    gain: Tensor
    noise: Tensor


def draw_shifts(num_images: int, generator: torch.Generator) -> Tensor:
    """Draw shifts (N, 2) from 0 to 2 * MAX_SHIFT_PX: rows and columns of the padded image at which to crop."""
    return torch.randint(0, 2 * MAX_SHIFT_PX + 1, (num_images, 2), generator=generator)


def shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Make the weak view: shift images (n, 3, H, W) by up to MAX_SHIFT_PX px and repeat the border pixels."""
    height, width = images.shape[-2:]
    # Repeated, not black: a black rim would reveal the shift.
    padded = pad(images.float(), (MAX_SHIFT_PX,) * 4, mode="replicate")
    places = zip(padded, shifts.tolist(), strict=True)
    picked = [image[:, row : row + height, column : column + width] for image, (row, column) in places]
    return torch.stack(picked) if picked else images.float()


def draw_strong(num_images: int, size: int, strength: float, generator: torch.Generator) -> StrongParams:
    """Draw the strong view's affine map, brightness, colour and noise.

    Args:
        num_images: N.
        size: Side of the images in px.
        strength: Factor on every range; 0 is the identity.
        generator: Source of the random numbers.
    """

    def uniform(*shape: int) -> Tensor:
        return strength * (2 * torch.rand(num_images, *shape, generator=generator) - 1)

    angle, stretch, shear = _ROTATION_RAD * uniform(), 1 + _SCALE * uniform(), _SHEAR * uniform()
    # affine_grid counts from -1 to 1 over the side.
    offset = uniform(2) * 2 * MAX_SHIFT_PX / size
    cos, sin = torch.cos(angle) * stretch, torch.sin(angle) * stretch
    rows = [torch.stack([cos, shear - sin, offset[:, 0]], 1), torch.stack([sin, cos, offset[:, 1]], 1)]
    gain = (1 + _BRIGHTNESS * uniform(1)) * (1 + _COLOUR * uniform(3))
    noise = 255 * _NOISE * strength * torch.randn(num_images, 3, size, size, generator=generator)
    return StrongParams(torch.stack(rows, 1), gain, noise)


def strengthen(images: Tensor, params: StrongParams, rows: Tensor) -> Tensor:
    """Apply the strong view of examples ``rows`` to their images (n, 3, H, W) in [0, 255]; n may be 0."""
    if len(rows) == 0:  # affine_grid refuses empty batches
        return images.float()
    grid = affine_grid(params.affine[rows], list(images.shape), align_corners=False)
    warped = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return (warped * params.gain[rows, :, None, None] + params.noise[rows]).clamp(0, 255)
