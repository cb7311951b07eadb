"""ROLE: regularised online label estimation.

Source: Cole et al., "Multi-label learning from single positive labels", CVPR 2021. Next to the network's probabilities
p, every training image has estimated labels q = sigmoid(theta_i), which are trained with it. With
``nl(x) = -log(x + 1e-5)``, sg stopping the gradient and k the expected number of positives of an image,

    L = 1/2 (P(p) + P(q)) + 1/2 (D(p, sg q) + D(q, sg p)) + 1/2 (K(p) + K(q))
    P(a)    = mean over all entries of y nl(a)
    D(a, b) = mean over all entries of b nl(a) + (1 - b) nl(1 - a)
    K(a)    = ((mean over the batch of sum_c a_c) - k)^2 / C^2

theta starts at logit(0.995) where a label was observed, and uniformly between logit(0.4) and logit(0.6) elsewhere.
Where a label is known to be negative, P has ``nl(1 - a)`` instead of 0, and theta starts at logit(0.005). k is a
statistic of the true labels, which a user with single positives does not have: it is privileged information, as for
EPR. Batch means are over the global batch. The run's optimiser trains theta at ``estimator_lr_multiplier`` times its
rate, 10 as released, without weight decay. As in the released code, Adam's moments keep moving the rows of images that
are not in the batch.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from training.config.methods import RoleConfig
from training.data.batches import Batch
from training.losses import LossPart, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.epr import expected_part
from training.methods.known_negatives import charge_negatives

# As logits: the inverse of the sigmoid at 0.995 and at 0.6.
_OBSERVED = log(0.995 / 0.005)
_UNOBSERVED = log(0.6 / 0.4)


class Role(Method):
    """ROLE as in the module's docstring. Parameters: theta (N, C)."""

    def __init__(self, config: RoleConfig, sizes: Sizes) -> None:
        super().__init__()
        self._expected = config.expected_positives
        self.lr_multiplier = config.estimator_lr_multiplier
        self.estimates = nn.Parameter(
            torch.empty(sizes.num_examples, sizes.num_classes).uniform_(-_UNOBSERVED, _UNOBSERVED)
        )

    @torch.no_grad()
    def start(self, observed: Tensor, negative: Tensor | None = None) -> None:
        """Set the estimates of the known labels."""
        self.estimates.masked_fill_(observed, _OBSERVED)
        if negative is not None:
            self.estimates.masked_fill_(negative, -_OBSERVED)

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        probs = model(batch.weak).logits.float().sigmoid()
        # Each side learns from the other's labels, so each is detached where it is the target.
        estimates = self.estimates[batch.index].sigmoid()
        parts = {
            "positives": mean_part(_known_entries(probs, batch) + _known_entries(estimates, batch), 0.5),
            "agreement": mean_part(
                _cross_entropy(probs, estimates.detach()) + _cross_entropy(estimates, probs.detach()), 0.5
            ),
        }
        for name, values in (("expected", probs), ("expected_estimates", estimates)):
            part = expected_part(values, self._expected)
            parts[name] = LossPart(part.numerator, part.count, 0.5)
        return StepOutput(parts)


def _known_entries(probs: Tensor, batch: Batch) -> Tensor:
    return charge_negatives(torch.where(batch.observed > 0, negative_log(probs), 0), probs, batch)


def _cross_entropy(probs: Tensor, targets: Tensor) -> Tensor:
    return targets * negative_log(probs) + (1 - targets) * negative_log(1 - probs)
