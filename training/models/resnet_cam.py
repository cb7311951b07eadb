"""A CNN whose output map is its class activation map (IGNORE supplement A.2, eq. 4; after BoostLU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.backbone import Trunk
from training.models.output import ModelOutput


class ResnetCam(nn.Module):
    """Trunk + 1x1 convolution + global average pooling: ``A = g(f(x))``, logits = mean of A over its positions.

    BoostLU (Kim et al., CVPR 2023) multiplies the map where it is positive, ``A <- alpha A where A > 0``, before the
    mean, in training and evaluation as released. What is returned as the map is the boosted one.

    Args:
        trunk: Image encoder f with ``num_features`` output channels.
        num_classes: C.
        cam_boost: alpha; 1 leaves the map alone.
    """

    def __init__(self, trunk: Trunk, num_classes: int, cam_boost: float = 1.0) -> None:
        super().__init__()
        self.cam_boost = cam_boost
        self.trunk = trunk.module
        self.head = nn.Conv2d(trunk.num_features, num_classes, 1)

    def forward(self, images: Tensor) -> ModelOutput:
        """Map normalised images (B, 3, H, W) to logits and class activation maps."""
        cams = self.head(self.trunk(images)).float()  # under autocast: the mean below, too, is then of float32
        if self.cam_boost != 1:
            cams = torch.where(cams > 0, self.cam_boost * cams, cams)
        return ModelOutput(cams.mean((2, 3)), cams)
