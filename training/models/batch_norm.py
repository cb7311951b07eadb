"""BatchNorm over the global batch on any device, and the modes of the masked pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed import differentiable_sum_over_ranks, world_size
from training.errors import ConfigError

MaskedPassBn = Literal["train", "batch_stats_no_update", "eval_both"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics are those of the global batch, by a differentiable all-reduce.

    torch's SyncBatchNorm refuses CPU tensors; this one serves gloo. Sums and counts are reduced, not means, so that
    ranks may hold different numbers of rows (none included).
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (n, C, h, w); statistics over the rows of all ranks when training."""
        if not self.training or world_size() == 1:
            return super().forward(images)
        # In double precision: E[x^2] - E[x]^2 cancels, and two ranks must equal one process to 1e-5.
        rows = images.double()
        per_channel = torch.stack([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3))])
        count = rows.new_full((1,), float(images.numel() // max(images.shape[1], 1)))
        sums = differentiable_sum_over_ranks(torch.cat([per_channel.flatten(), count]))
        count = sums[-1].detach()
        mean, square = (sums[:-1] / count).view(2, -1)
        variance = (square - mean.square()).clamp_min(0)
        if self.track_running_stats:
            self._update_running(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        normalised = ((rows - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)).to(images.dtype)
        assert self.weight is not None
        assert self.bias is not None
        result: Tensor = normalised * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return result

    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        unbiased = variance * count / (count - 1).clamp_min(1)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def convert_to_global(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm of a model count the global batch: SyncBatchNorm on a GPU, :class:`GlobalBatchNorm2d` on
    CPU.

    Raises:
        ConfigError: On CPU, the trunk has a BatchNorm of its own kind (timm's with an activation inside).
    """
    if device.type == "cuda":
        import timm.layers

        # torch's would drop the activation inside timm's BatchNorm.
        converted: nn.Module = timm.layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined, no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
        elif isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm2d):
            raise ConfigError(
                f"model.backbone must have torch's BatchNorm2d to count the global batch on CPU, but has "
                f"{type(module).__name__}. "
                "Use one worker, or GPUs",
                "model.backbone",
            )
    return model


class _Frozen(nn.Module):
    """Stays in eval mode whatever the mode of the model."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def freeze(model: nn.Module) -> None:
    """Keep every BatchNorm of a model at its statistics and affine parameters, whatever the mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            module.__class__ = type(f"Frozen{kind.__name__}", (_Frozen, kind), {})
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def masked_pass(model: nn.Module, mode: MaskedPassBn) -> Any:
    """Return the context in which the masked pass runs.

    ``train`` (released code) leaves the model alone: batch statistics, and running statistics updated by the masked
    images too. ``batch_stats_no_update`` keeps the batch statistics but not the update. ``eval_both`` puts the model in
    eval mode.
    """
    if mode == "train":
        return nullcontext()
    return _eval_mode(model) if mode == "eval_both" else _without_update(model)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _without_update(model: nn.Module) -> Iterator[None]:
    # A BatchNorm in training mode that does not track uses batch statistics and leaves its buffers alone.
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
