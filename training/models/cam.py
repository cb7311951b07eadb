"""Turn class activation maps (CAMs) into the masks of IGNORE: pick a map, normalise it, compare it with tau.

**tau is applied in** :func:`cam_mask`, as its argument ``threshold``. The setting is ``method.cam_threshold``
(:class:`training.config.methods.IgnoreConfig`); :mod:`training.methods.ignore` passes it on in every training step.
Source: IGNORE (Song et al., ECCV 2024), supplement A. All functions are pure.
"""

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
    # A sum over one-hot labels instead of an index: images without a positive need no special case.
    return torch.einsum("bchw,bc->bhw", cams, observed.to(cams.dtype))


def normalise_cam(cam: Tensor, has_positive: Tensor, how: CamNormalisation) -> Tensor:
    """Scale maps to about 0-1.

    ``per_image`` is min-max over each image's map (paper, supplement A). ``batch`` is what the released code does:
    minimum and maximum over the images of the batch at each position, ``(cam - min) / max``; it may exceed 1, and a
    negative maximum flips its sign. Only images with a positive take part, over the global batch.

    Args:
        cam: (B, h, w).
        has_positive: bool (B,).
        how: ``per_image`` or ``batch``.

    Returns:
        (B, h, w).
    """
    if how == "per_image":
        low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
        return (cam - low) / (high - low).clamp_min(_EPS)  # a flat map becomes 0, not NaN
    low, high = extremes_over_ranks(cam, has_positive)
    return (cam - low) / high


def cam_mask(normalised: Tensor, has_positive: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """Upsample maps to the image (bilinear) and keep the pixels where they exceed tau.

    Args:
        normalised: (B, h, w).
        has_positive: bool (B,); an image without a positive is kept whole.
        threshold: tau, in 0-1.
        size: (H, W) of the image in px.

    Returns:
        bool (B, H, W): ``1[CAM > tau]``.
    """
    upsampled = interpolate(normalised[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return (upsampled > threshold) | ~has_positive[:, None, None]
