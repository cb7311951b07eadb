"""Optimisers and schedules from configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.config.run import OptimConfig
from training.torch_compat import step_unless


class Estimating(Protocol):
    """A method, as far as it is trained."""

    lr_multiplier: float

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over its own parameters."""


def build_optimizer(config: OptimConfig, model: nn.Module, method: Estimating | None = None) -> Optimizer:
    """Build a fused optimiser over all trainable parameters; weight decay is on all of them, as the released codes have
    it.

    Args:
        config: The ``optim`` section; Adam's decay is L2, AdamW's decoupled, SGD has momentum 0.9.
        model: Parameters whose name starts with ``head.`` take ``lr * head_lr_multiplier``.
        method: Its own parameters, if it has any, take ``lr * lr_multiplier`` and no decay: they are estimates, not
            weights.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    head = [parameter for name, parameter in trainable if name.startswith("head.")]
    trunk = [parameter for name, parameter in trainable if not name.startswith("head.")]
    groups: list[dict[str, Any]] = [
        {"params": trunk, "lr": config.lr},
        {"params": head, "lr": config.lr * config.head_lr_multiplier},
    ]
    if method is not None and (own := list(method.parameters())):
        groups.append({"params": own, "lr": config.lr * method.lr_multiplier, "weight_decay": 0.0})
    if config.name == "sgd":
        return SGD(groups, momentum=0.9, weight_decay=config.weight_decay, fused=True)
    factory = Adam if config.name == "adam" else AdamW
    return factory(groups, weight_decay=config.weight_decay, fused=True)


def build_schedule(config: OptimConfig, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Build the schedule, stepped per batch.

    ``one_cycle`` is torch's: cosine from lr / 25 up to lr and down to lr / 25e4, cycling Adam's beta1 between 0.95 and
    0.85.

    Args:
        config: The ``optim`` section.
        optimizer: Whose rates it sets.
        num_steps: Of one cycle; where the run goes on, the next begins.
    """
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    highest = [group["lr"] for group in optimizer.param_groups]
    # torch divides by zero where the rise is exactly one step long.
    rising = config.warm_frac * (1 + 1e-6) if config.warm_frac * num_steps == 1 else config.warm_frac
    return _Cycles(optimizer, max_lr=highest, total_steps=num_steps, pct_start=rising)


class _Cycles(OneCycleLR):
    """One cycle after the other; torch's raises after the first."""

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch
        self.last_epoch %= self.total_steps
        try:
            return super().get_lr()
        finally:
            self.last_epoch = step


def guarded_step(optimizer: Optimizer, finite: Tensor) -> None:
    """Step the optimiser, or leave parameters and moments alone where ``finite`` (bool scalar) is False."""
    step_unless(optimizer, (~finite).float())
