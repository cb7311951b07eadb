"""Measure after each epoch whether a model looks where the objects are, by its CAMs on a fixed part of val."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from training.config.methods import IgnoreConfig
from training.data.split import SplitData
from training.data.views import PixelScale
from training.models.cam import CamNormalisation
from training.models.cam_quality import cam_metrics

NUM_IMAGES = 256
_BATCH = 32
# For methods without masks.
_THRESHOLD = 0.5
_HOW: CamNormalisation = "per_image"


def measure_localisation(
    model: nn.Module, data: SplitData, scale: PixelScale, device: torch.device, config: object
) -> dict[str, float]:
    """Measure the maps on the first ``NUM_IMAGES`` images with boxes.

    Every rank scores all of them: there are too few to be worth sharing, and all ranks get the same figures.

    Args:
        model: In eval mode.
        data: The val split.
        scale: Normalisation.
        device: Where the model is.
        config: The method's settings; see :func:`mask_settings`.

    Returns:
        See :func:`training.models.cam_quality.cam_metrics`; empty if no boxes are known.
    """
    return cam_metrics(model, _boxed_images(data, scale, device), *mask_settings(config))


def mask_settings(config: object) -> tuple[float, CamNormalisation]:
    """Return the tau and CAM normalisation to measure with: IGNORE's own, else 0.5 and per image."""
    return (config.cam_threshold, config.cam_normalisation) if isinstance(config, IgnoreConfig) else (_THRESHOLD, _HOW)


def _boxed_images(data: SplitData, scale: PixelScale, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    if data.boxes is None:
        return
    boxed = (data.boxes[..., 0] >= 0).any(1).nonzero()[:NUM_IMAGES, 0]
    for rows in boxed.split(_BATCH):
        yield scale.normalise(data.images.read(rows.tolist()).to(device)), data.boxes[rows]
