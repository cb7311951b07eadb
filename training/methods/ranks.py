"""Order the scores of each class."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_in_class(scores: Tensor) -> Tensor:
    """Return the rank of each score among those of its class, from 0 for the lowest.

    Equal scores are ranked in the order of the examples, so that every rank and every resumed run agree.

    Args:
        scores: (N, C).

    Returns:
        long (N, C).
    """
    order = scores.argsort(dim=0, stable=True)
    # Scattering inverts the permutation.
    return torch.empty_like(order).scatter_(
        0, order, torch.arange(len(order), device=order.device)[:, None].expand_as(order)
    )
