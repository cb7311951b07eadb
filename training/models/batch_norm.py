"""Make BatchNorm count the global batch on any device, freeze it, and set its mode for IGNORE's masked pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.distributed import differentiable_sum_over_ranks, world_size
from training.errors import ConfigError
from training.models.base import AnyBatchNorm, Network, find_norms

MaskedPassBn = Literal["train", "batch_stats_no_update", "eval_both"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics are those of the global batch, computed by a differentiable all-reduce.

    It is needed because torch's SyncBatchNorm refuses CPU tensors; this one works with gloo. Sums and counts are
    reduced, not means, so ranks may hold different numbers of rows, or none.
    """

    @classmethod
    def replacing(cls, norm: nn.BatchNorm2d) -> GlobalBatchNorm2d:
        """Return a global BatchNorm that shares the parameters and statistics of a plain one."""
        replacement = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        # Share the tensors instead of copying them: an optimiser may already hold the parameters.
        replacement.weight, replacement.bias = norm.weight, norm.bias
        replacement.running_mean, replacement.running_var = norm.running_mean, norm.running_var
        replacement.num_batches_tracked = norm.num_batches_tracked
        return replacement.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (n, C, h, w); in train mode with the statistics of all ranks' rows."""
        if not self.training or world_size() == 1:
            return super().forward(images)
        # In double precision, because E[x^2] - E[x]^2 cancels and two ranks must equal one process to 1e-5.
        rows = images.double()
        per_channel = torch.stack([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3))])
        count = rows.new_full((1,), float(images.numel() // max(images.shape[1], 1)))
        sums = differentiable_sum_over_ranks(torch.cat([per_channel.flatten(), count]))
        count = sums[-1].detach()
        mean, square = (sums[:-1] / count).view(2, -1)
        # Rounding may take it slightly below 0, where rsqrt would be NaN.
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
        # Like torch: normalise with the biased variance, but track the unbiased one.
        unbiased = variance * count / (count - 1).clamp_min(1)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def convert_to_global(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm of a model count the global batch.

    Uses SyncBatchNorm on a GPU and :class:`GlobalBatchNorm2d` on the CPU.

    Raises:
        ConfigError: The trunk has a kind of BatchNorm that has no replacement on the CPU (timm's with an activation).
    """
    if device.type == "cuda":
        import timm.layers

        # torch's own conversion would drop the activation inside timm's BatchNorm.
        converted: nn.Module = timm.layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined, no-untyped-call]
        return converted
    replacements: dict[nn.Module, nn.Module] = {}
    # With duplicates, because a module that is used in two places must be replaced in both by the same one.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.BatchNorm2d:
            model.set_submodule(name, replacements.setdefault(module, GlobalBatchNorm2d.replacing(module)))
        elif isinstance(module, AnyBatchNorm) and not isinstance(module, GlobalBatchNorm2d):
            raise ConfigError(
                f"model.backbone has {type(module).__name__}, whose statistics cannot cover several CPU workers. "
                "Use one worker, GPUs, or a backbone with torch's BatchNorm2d",
                "model.backbone",
            )
    return model


def freeze(model: Network) -> None:
    """Keep every BatchNorm of a model at its statistics and affine parameters, whatever the mode of the model."""
    model.frozen_norms = ("",)
    for norm in find_norms(model):
        norm.eval()
        for parameter in norm.parameters():
            parameter.requires_grad_(False)


def masked_pass(model: nn.Module, mode: MaskedPassBn) -> Any:
    """Return the context in which to run IGNORE's masked pass.

    ``train`` (as released) changes nothing: batch statistics are used, and the masked images update the running
    statistics too. ``batch_stats_no_update`` uses batch statistics without updating the running ones. ``eval_both``
    puts the model in eval mode.
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
    # In train mode, a BatchNorm that does not track uses batch statistics and leaves its running ones alone.
    norms = [norm for norm in find_norms(model) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
