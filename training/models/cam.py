"""Class activation maps: choose, normalise, threshold, mask. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from training.distributed import extremes_over_ranks

CamNormalisation = Literal["per_image", "batch"]
_EPS = 1e-8


def observed_cam(cams: Tensor, observed: Tensor) -> Tensor:
    """Pick each image's map of its observed class.

    Args:
        cams: (B, C, h, w).
        observed: (B, C) of 0 and 1, at most one 1 per row.

    Returns:
        (B, h, w); zeros for an image without an observed positive.
    """
    return torch.einsum("bchw,bc->bhw", cams, observed.to(cams.dtype))


def normalise_cam(cam: Tensor, has_positive: Tensor, how: CamNormalisation) -> Tensor:
    """Bring maps to about 0-1.

    ``per_image`` is min-max over each image's map (paper, supplement A). ``batch`` is what the released code does:
    minimum and maximum over the images of the batch at each position, ``(cam - min) / max``; it is not bounded by 1 and
    changes sign with a negative maximum. Only images with a positive take part, over the global batch.

    Args:
        cam: (B, h, w).
        has_positive: bool (B,).
        how: ``per_image`` or ``batch``.

    Returns:
        (B, h, w).
    """
    if how == "per_image":
        low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
        return (cam - low) / (high - low).clamp_min(_EPS)
    low, high = extremes_over_ranks(cam, has_positive)
    return (cam - low) / high


def cam_mask(normalised: Tensor, has_positive: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """Upsample maps to the image (bilinear) and keep the pixels above the threshold.

    Args:
        normalised: (B, h, w).
        has_positive: bool (B,); an image without a positive is kept whole.
        threshold: tau, in 0-1.
        size: (H, W) of the image in px.

    Returns:
        bool (B, H, W).
    """
    upsampled = interpolate(normalised[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return (upsampled > threshold) | ~has_positive[:, None, None]
