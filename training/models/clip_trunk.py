"""CLIP's image network as a trunk: what comes out for an image is its embedding, as a map with one position.

With a trunk that rests (``optim.head_first_epochs`` at least ``loop.epochs``), the 1x1 convolution on this map is a
linear probe: any method can be trained so, on the same labels as without CLIP. The map is the embedding that CLIP
compares with texts, of length sqrt(d) instead of 1, so that its numbers are about as large as those of other trunks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from training.config.run import ModelConfig
from training.models.clip import ClipName, build_network
from training.models.pixel_scale import IMAGENET


class ClipTrunk(nn.Module):
    """Map ImageNet-normalised images (B, 3, H, W) to (B, d, 1, 1).

    Args:
        visual: The image network of open_clip's CLIP.
        mean, std: Of the pixels that it was trained on, in 0-1 per channel.
    """

    _given_mean: Tensor
    _given_std: Tensor
    _mean: Tensor
    _std: Tensor

    def __init__(self, visual: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.visual: nn.Module = visual
        size: int | tuple[int, int] = visual.image_size
        self._size = size if isinstance(size, tuple) else (size, size)
        values = {"_given_mean": IMAGENET.mean, "_given_std": IMAGENET.std, "_mean": mean, "_std": std}
        for buffer, each in values.items():
            self.register_buffer(buffer, torch.tensor(each).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, resized to the network's square."""
        pixels = images * self._given_std + self._given_mean
        if pixels.shape[-2:] != self._size:
            # As in Clip.encode_images: bicubic values overshoot next to edges.
            pixels = interpolate(pixels, self._size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        found = normalize(self.visual((pixels - self._mean) / self._std).float(), dim=-1)
        return (math.sqrt(found.shape[-1]) * found)[:, :, None, None]


def build_clip_trunk(config: ModelConfig) -> ClipTrunk:
    """Build the trunk with random weights.

    ``model.backbone`` alone (``clip/ARCH`` or ``clip/ARCH/TAG``) says which network it is, because a checkpoint is read
    into one that was built without initial weights: the tag decides the activation and the pixels.

    Raises:
        ConfigError: There is no such network.
    """
    name = ClipName.parse(config.backbone)
    described = name.described
    return ClipTrunk(build_network(name).visual, tuple(described["mean"]), tuple(described["std"]))
