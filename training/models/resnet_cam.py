"""A CNN whose output map is its class activation map (IGNORE, supplement A.2, eq. (4); following BoostLU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.backbone import Trunk
from training.models.base import ModelOutput, Network


class ResnetCam(Network):
    """Trunk + 1x1 convolution + global average pooling: ``A = g(f(x))``, logits = mean of A over its positions.

    BoostLU (Kim et al., CVPR 2023) multiplies the map where it is positive, ``A <- alpha A where A > 0``, before the
    mean, in training and in evaluation, as released. The map that is returned is the boosted one.

    Args:
        trunk: Image encoder f with ``num_features`` output channels.
        num_classes: C.
        cam_boost: alpha; 1 leaves the map as it is.
    """

    def __init__(self, trunk: Trunk, num_classes: int, cam_boost: float = 1.0) -> None:
        super().__init__()
        self.cam_boost = cam_boost
        self.trunk = trunk.module
        self.head = nn.Conv2d(trunk.num_features, num_classes, 1)

    def forward(self, images: Tensor) -> ModelOutput:
        """Map normalised images (B, 3, H, W) to logits and class activation maps."""
        # To float32 here, so that under bf16 autocast the mean below is computed in float32 too.
        cams = self.head(self.trunk(images)).float()
        if self.cam_boost != 1:
            cams = torch.where(cams > 0, self.cam_boost * cams, cams)
        return ModelOutput(cams.mean((2, 3)), cams)
