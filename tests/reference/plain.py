"""Shared helpers of the methods' references: scalar formulas, and a network that returns fixed logits."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import torch
from torch import Tensor, nn

from tests.kit.scenes import random_batch
from training.data.batches import Batch
from training.losses import total_loss
from training.methods.base import Method, StepOutput
from training.models.base import ModelOutput


class FixedLogits(nn.Module):
    """A network that returns the given logits for every batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> ModelOutput:
        self.seen.append(images)
        return ModelOutput(self.logits, self.logits[:, :, None, None])


def make_batch(
    num: int, num_classes: int, seed: int = 4, without_positive: int = 1, scale: float = 3.0
) -> tuple[Batch, FixedLogits]:
    """Return examples, the first of them without a positive, and random logits for them."""
    batch = random_batch(num, num_classes, size=8, seed=seed, without_positive=without_positive)
    return batch, FixedLogits(scale * torch.randn(num, num_classes, generator=torch.Generator().manual_seed(seed + 1)))


def loss_of(output: StepOutput) -> float:
    """Return the value that is minimised."""
    return float(total_loss(output.parts)[0].detach())


def gradient_of(method: Method, model: FixedLogits, batch: Batch, epoch: int) -> Tensor:
    """Return the gradient of the loss with respect to the logits."""
    model.zero_grad()
    total_loss(method.step(model, batch, epoch).parts)[0].backward()
    assert model.logits.grad is not None
    return model.logits.grad


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + e^-z)."""
    return 1 / (1 + exp(-logit))


def nl(value: float) -> float:
    """Return -log(x + eps)."""
    return -log(value + 1e-5)


def slope_of(loss: Callable[[Tensor], float], at: Tensor, step: float = 1e-3) -> Tensor:
    """Return the gradient of a loss by central differences, entry by entry."""
    slope = torch.zeros_like(at)
    for place in range(at.numel()):
        change = torch.zeros_like(at).flatten()
        change[place] = step
        slope.view(-1)[place] = (loss(at + change.view_as(at)) - loss(at - change.view_as(at))) / (2 * step)
    return slope
