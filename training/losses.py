"""Express losses as numerator and count, so that the mean over a subset can be reduced over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.distributed import sum_over_ranks, world_size

EPS = 1e-5
"""Added inside every logarithm, as in the released code of SPML methods."""


@dataclass(frozen=True)
class LossPart:
    """One term of a loss: ``weight * numerator / count``, with numerator and count first summed over all ranks.

    Attributes:
        numerator: Scalar with gradient, the sum over this rank's entries.
        count: Scalar without gradient, the number of this rank's entries.
        weight: Factor of the term.
    """

    numerator: Tensor
    count: Tensor
    weight: float = 1.0


def mean_part(values: Tensor, weight: float = 1.0) -> LossPart:
    """Return the mean over all entries as a part."""
    # Filled on the device: a number copied there would make the host wait.
    return LossPart(values.sum(), torch.full((), float(values.numel()), device=values.device), weight)


def masked_mean_part(values: Tensor, mask: Tensor, weight: float = 1.0) -> LossPart:
    """Return the mean over the entries of a boolean mask as a part; it is 0 if the mask is empty."""
    # No boolean indexing, which would make the host wait for the device to learn the number of entries.
    return LossPart(torch.where(mask, values, 0).sum(), mask.sum().to(values.dtype), weight)


def total_loss(parts: Mapping[str, LossPart]) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up the parts over all ranks.

    The mean of the ranks' means would be wrong for subsets of unequal size, so counts are summed over ranks first. Each
    rank's share is scaled by the world size, because DistributedDataParallel averages gradients.

    Returns:
        The scalar to call ``backward`` on, and the value of each weighted part over the global batch (detached, the
        same on every rank).
    """
    local = torch.stack(
        [*(part.numerator.detach() for part in parts.values()), *(part.count for part in parts.values())]
    )
    totals = sum_over_ranks(local)  # one all-reduce for all parts
    # Over no entry at all, numerator and count are 0: divided by 1, such a part is 0 instead of NaN.
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
        (B, C), not negative except for eps.
    """
    probs = logits.sigmoid()
    return torch.where(labels > 0, negative_log(probs), negative_log(1 - probs))


def binary_entropy(probs: Tensor) -> Tensor:
    """Return ``p * -log(p + eps) + (1 - p) * -log(1 - p + eps)`` per entry."""
    return probs * negative_log(probs) + (1 - probs) * negative_log(1 - probs)
