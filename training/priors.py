"""Estimate how frequent a class is from scores and observed positives, as CRISP does (arXiv 2309.13886)."""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor

TAU = DELTA = 0.01


def estimate_prior(probs: Tensor, observed: Tensor) -> Tensor:
    """Estimate one class's prior, at the threshold of :mod:`training.methods.crisp` with the lowest upper bound.

    Args:
        probs: float64 (n,) in 0-1.
        observed: bool (n,), which images have the class as their observed label.

    Returns:
        Scalar in 0-1; 0 without an observed positive.
    """
    candidates = probs[observed].sort().values
    num, num_positive = len(probs), len(candidates)
    if num_positive == 0:
        return probs.new_zeros(())
    ascending = probs.sort().values
    # searchsorted counts the scores below each candidate, so these are the shares at or above it.
    share = (num - torch.searchsorted(ascending, candidates)).to(probs.dtype) / num
    positive_share = (num_positive - torch.searchsorted(candidates, candidates)).to(probs.dtype) / num_positive
    slack = sqrt(log(4 / DELTA) / (2 * num)) + sqrt(log(4 / DELTA) / (2 * num_positive))
    best = (share / positive_share + (1 + TAU) * slack / positive_share).argmin()
    return (share / positive_share)[best].clamp_max(1)
