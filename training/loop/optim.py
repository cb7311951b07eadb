"""Build optimisers and learning-rate schedules from the ``optim`` settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.config.run import OptimConfig
from training.torch_compat import step_unless


class Estimating(Protocol):
    """The part of a method that the optimiser needs."""

    lr_multiplier: float

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over its own parameters."""

    def decays_in(self, epoch: int) -> bool:
        """Return whether they take weight decay in this epoch."""


def build_optimizer(config: OptimConfig, model: nn.Module, method: Estimating | None = None) -> Optimizer:
    """Build a fused optimiser over all trainable parameters.

    Weight decay applies to all of the model's parameters, as in the released code of the methods.

    Args:
        config: The ``optim`` section; Adam's decay is L2, AdamW's is decoupled, SGD has momentum 0.9.
        model: Parameters whose name starts with ``head.`` get ``lr * head_lr_multiplier``.
        method: Its own parameters, if it has any, get ``lr * lr_multiplier`` and the decay that
            :func:`set_own_decay` gives them, none at first.
    """
    # Fused, because only fused optimisers read the flag that guarded_step sets.
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


def set_own_decay(config: OptimConfig, optimizer: Optimizer, method: Estimating, epoch: int) -> None:
    """Give the method's own parameters the run's weight decay in the epochs in which they take it.

    Call it at the start of every epoch: a parameter that has no gradient yet would be shrunk by its decay alone.
    """
    # The third group, if there is one.
    for group in optimizer.param_groups[2:]:
        group["weight_decay"] = config.weight_decay if method.decays_in(epoch) else 0.0


def build_schedule(config: OptimConfig, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Build the schedule, which is stepped once per batch.

    ``one_cycle`` is torch's: cosine from lr / 25 up to lr and down to lr / 25e4, cycling Adam's beta1 between 0.95 and
    0.85.

    Args:
        config: The ``optim`` section.
        optimizer: The optimiser to schedule.
        num_steps: Steps of one cycle; a longer run starts the next one.
    """
    if config.schedule == "constant":
        # A schedule all the same, so that the loop steps and saves one whatever the setting is.
        return LambdaLR(optimizer, lambda step: 1.0)
    highest = [group["lr"] for group in optimizer.param_groups]
    # torch divides by zero if the rise is exactly one step long.
    rising = config.warm_frac * (1 + 1e-6) if config.warm_frac * num_steps == 1 else config.warm_frac
    return _Cycles(optimizer, max_lr=highest, total_steps=num_steps, pct_start=rising)


class _Cycles(OneCycleLR):
    """Repeat the cycle; torch's OneCycleLR raises after the first."""

    def get_lr(self) -> list[float | Tensor]:
        # torch computes the rate from ``last_epoch``: show it the step within the cycle, then put the count back.
        step = self.last_epoch
        self.last_epoch %= self.total_steps
        try:
            return super().get_lr()
        finally:
            self.last_epoch = step


def guarded_step(optimizer: Optimizer, finite: Tensor) -> None:
    """Step the optimiser, or leave parameters and moments alone where ``finite`` (bool scalar) is False."""
    step_unless(optimizer, (~finite).float())
