"""EPR: expected positive regularisation (Cole et al., "Multi-label learning from single positive labels", 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config.methods import EprConfig
from training.data.batches import Batch
from training.distributed import differentiable_sum_over_ranks
from training.losses import LossPart, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.known_negatives import charge_negatives


class Epr(Method):
    """``mean[y nl(p)] + ((mean over the batch of sum_c p_c) - k)^2 / C^2`` with ``nl(x) = -log(x + 1e-5)``.

    The only signal for unobserved labels is how many positives an image has on average, k. k is a statistic of the true
    labels, which a user with single positives does not have: it is privileged information, as the authors note. The
    mean is over the global batch.
    """

    def __init__(self, config: EprConfig, sizes: Sizes) -> None:
        super().__init__()
        self._expected = config.expected_positives

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        probs = model(batch.weak).logits.float().sigmoid()
        known = charge_negatives(torch.where(batch.observed > 0, negative_log(probs), 0), probs, batch)
        return StepOutput({"positives": mean_part(known), "expected": expected_part(probs, self._expected)})


def expected_part(probs: Tensor, expected_positives: float) -> LossPart:
    """Return ``((mean over the global batch of sum_c p_c) - k)^2 / C^2`` as a part.

    Args:
        probs: (B, C), with gradient.
        expected_positives: k.
    """
    num = probs.new_full((1,), float(len(probs)))
    total, num_global = differentiable_sum_over_ranks(torch.cat([probs.sum()[None], num]))
    # At least 1, because a global batch without rows would make it NaN.
    penalty = ((total / num_global.detach().clamp_min(1) - expected_positives) / probs.shape[1]).square()
    # The penalty is the same on every rank. Weighted by each rank's rows, its mean over the ranks is the penalty again.
    return LossPart(penalty * num[0], num[0])
