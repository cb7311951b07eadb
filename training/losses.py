"""Losses as numerator and count, so that a mean over a subset can be reduced over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.distributed import sum_over_ranks, world_size

EPS = 1e-5
"""Added inside every logarithm, as the released code of the field does."""


@dataclass(frozen=True)
class LossPart:
    """One term of a loss on this rank: ``weight * numerator / count``, both summed over all ranks first.

    Attributes:
        numerator: Scalar with gradient, the sum over this rank's entries.
        count: Scalar without gradient, how many entries.
        weight: Factor of the term.
    """

    numerator: Tensor
    count: Tensor
    weight: float = 1.0


def mean_part(values: Tensor, weight: float = 1.0) -> LossPart:
    """Return the mean over all entries as a part."""
    return LossPart(values.sum(), torch.full((), float(values.numel()), device=values.device), weight)


def masked_mean_part(values: Tensor, mask: Tensor, weight: float = 1.0) -> LossPart:
    """Return the mean over the entries of a boolean mask as a part; over no entry at all it is 0."""
    return LossPart(torch.where(mask, values, 0).sum(), mask.sum().to(values.dtype), weight)


def total_loss(parts: Mapping[str, LossPart]) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up the parts over all ranks.

    The mean of rank means is wrong for a subset of unequal size: counts are summed over ranks first, and each rank's
    share is scaled by the world size because DistributedDataParallel averages gradients.

    Returns:
        The scalar to call ``backward`` on, and each weighted part's value over the global batch (detached, the same on
        every rank).
    """
    local = torch.stack(
        [*(part.numerator.detach() for part in parts.values()), *(part.count for part in parts.values())]
    )
    totals = sum_over_ranks(local)
    numerators, counts = totals[: len(parts)], totals[len(parts) :].clamp_min(1)
    loss = torch.stack(
        [
            part.weight * world_size() * part.numerator / count
            for part, count in zip(parts.values(), counts, strict=True)
        ]
    ).sum()
    values = {
        name: part.weight * numerator / count
        for (name, part), numerator, count in zip(parts.items(), numerators, counts, strict=True)
    }
    return loss, values


def negative_log(probs: Tensor) -> Tensor:
    """Return ``-log(probs + 1e-5)``."""
    return -torch.log(probs + EPS)


def assumed_negative_entries(logits: Tensor, labels: Tensor) -> Tensor:
    """Return BCE per entry, ``-log(p + eps)`` where the label is 1 and ``-log(1 - p + eps)`` elsewhere.

    Args:
        logits: (B, C).
        labels: (B, C) of 0 and 1.

    Returns:
        (B, C), not negative but for eps.
    """
    probs = logits.sigmoid()
    return torch.where(labels > 0, negative_log(probs), negative_log(1 - probs))


def binary_entropy(probs: Tensor) -> Tensor:
    """Return ``p * -log(p + eps) + (1 - p) * -log(1 - p + eps)`` per entry."""
    return probs * negative_log(probs) + (1 - probs) * negative_log(1 - probs)
