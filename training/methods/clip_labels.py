"""Turn CLIP's scores into pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.store.clip_scores import ClipScores


def find_damp_labels(
    scores: ClipScores,
    observed: Tensor,
    *,
    tile_threshold: float,
    positive_threshold: float,
    top_k: int,
    negative_frac: float,
) -> Tensor:
    """Return the pseudo-labels of DAMP; :class:`training.methods.gr_loss.Aevlp` has the formulas.

    Args:
        scores: Of N images.
        observed: bool (N, C).
        tile_threshold: eta.
        positive_threshold: From this score on, a class among the top k is positive.
        top_k: k.
        negative_frac: Share of the C classes, rounded down, that are negative.

    Returns:
        int8 (N, C) of 1, -1 and, where nothing was found or the label was observed, 0.
    """
    own = torch.where(observed, scores.whole, 0).amax(1, keepdim=True)
    tiles = torch.where(scores.tile_max > own.clamp_max(tile_threshold), scores.tile_max, scores.tile_min)
    final = (scores.whole + tiles) / 2
    # A stable sort, so that equal scores give the same labels everywhere.
    order = final.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    positive = (ranks < top_k) & (final >= positive_threshold)
    negative = ranks >= order.shape[1] - int(negative_frac * order.shape[1])
    labels = positive.to(torch.int8) - (negative & ~positive).to(torch.int8)
    return torch.where(observed, 0, labels)
