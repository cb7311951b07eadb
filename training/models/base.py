"""Define what all models share: the output they return, and BatchNorms that stay frozen in train mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

from torch import Tensor, nn

AnyBatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""Every kind of BatchNorm, timm's with an activation included, which derive from these."""


class ModelOutput(NamedTuple):
    """The output of every model.

    Attributes:
        logits: (B, C).
        cams: Class activation maps (B, C, h, w).
        embeddings: One vector per class (B, C, d), or None; a model that returns them has ``embedding_dim``.
        latents: Mean and logarithm of the standard deviation of the latent vectors, two (B, C, l), of a model that
            reads its logits from such; None elsewhere.
    """

    logits: Tensor
    cams: Tensor
    embeddings: Tensor | None = None
    latents: tuple[Tensor, Tensor] | None = None


class Network(nn.Module):
    """Base class of the models.

    Attributes:
        trunk: The image encoder.
        frozen_norms: Names of the parts whose BatchNorms stay in eval mode when the model is put in train mode; the
            name of the whole model is empty. See :func:`training.models.batch_norm.freeze` and
            :func:`training.models.frozen_stem.freeze_stem`.
    """

    trunk: nn.Module
    frozen_norms: tuple[str, ...] = ()

    def train(self, mode: bool = True) -> Self:
        """Put the model in train or eval mode, except for its frozen BatchNorms."""
        super().train(mode)
        # By name, because BatchNorms may be replaced after they were frozen.
        for part in self.frozen_norms:
            for norm in find_norms(self.get_submodule(part)):
                norm.eval()
        return self


def find_norms(model: nn.Module) -> Iterator[AnyBatchNorm]:
    """Iterate over the BatchNorms of a model."""
    return (module for module in model.modules() if isinstance(module, AnyBatchNorm))
