"""GR Loss: generalised robust loss with soft pseudo-labels (Chen et al., IJCAI 2024); and GPR, which builds on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from training.config.methods import GprConfig, GrLossConfig
from training.data.batches import Batch
from training.losses import LossPart, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.epr import expected_part
from training.methods.known_negatives import charge_negatives

_EPS = 1e-7
"""Added inside the logarithm, as released; other methods use 1e-5."""


class GrLoss(Method):
    """The loss ``-log p``, p = sigmoid(z), where observed, and elsewhere, with K and V detached,

        V [K (1 - p^q2) / q2 + (1 - K) (1 - (1 - p)^q3) / q3],
        K = sigmoid(w p + b),    V = exp(-((p - mu) / sigma)^2 / 2).

    In epoch t of T, counted from 1, ``w = w_0 + (w_T - w_0) (t - 1) / T``, likewise b, and ``mu = mu_0 + (mu_T - mu_0)
    t / T``, likewise sigma. As released, w and b never quite reach their last value. T is the run's full length. The
    release can first train the head alone for some epochs (by default none); this is not implemented. Its early stop is
    ``loop.max_drop_percent``.
    """

    def __init__(self, config: GrLossConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config, self._num_epochs = config, sizes.num_epochs

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        return StepOutput({"entries": self._entries(model(batch.weak).logits.float(), batch, epoch)})

    def _entries(self, logits: Tensor, batch: Batch, epoch: int) -> LossPart:
        probs = logits.sigmoid()
        slope, offset, centre, width = self._schedule(epoch)
        # Detached: pseudo-label and weight are targets, not something to learn.
        soft = (slope * probs.detach() + offset).sigmoid()
        weight = torch.exp(-((probs.detach() - centre) / width).square() / 2)
        unobserved = soft * _robust(logits, self._config.q_pos) + (1 - soft) * _robust(-logits, self._config.q_neg)
        entries = torch.where(batch.observed > 0, -torch.log(probs + _EPS), weight * unobserved)
        return mean_part(charge_negatives(entries, probs, batch))

    def _schedule(self, epoch: int) -> tuple[float, float, float, float]:
        """Return w, b, mu and sigma in an epoch."""
        config, before, after = self._config, (epoch - 1) / self._num_epochs, epoch / self._num_epochs
        return (
            _between(config.slope_first, config.slope_last, before),
            _between(config.offset_first, config.offset_last, before),
            _between(config.centre_first, config.centre_last, after),
            _between(config.width_first, config.width_last, after),
        )


class Gpr(GrLoss):
    """The loss of GPR (AEVLP, arXiv 2508.20381) without CLIP: GR Loss plus a prior on the number of positives,

        reg ((mean over the batch of sum_c p_c) - K)^2 / C^2.

    K is the true mean number of positives, which a user with single positives does not have. The whole method also has
    pseudo-labels from CLIP (DAMP), for which it has two more terms; without pseudo-labels these are empty. The mean is
    over the global batch.
    """

    def __init__(self, config: GprConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self._expected, self._reg_weight = config.expected_positives, config.reg_weight

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        logits = model(batch.weak).logits.float()
        prior = expected_part(logits.sigmoid(), self._expected)
        prior = LossPart(prior.numerator, prior.count, self._reg_weight)
        return StepOutput({"entries": self._entries(logits, batch, epoch), "expected": prior})


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def _robust(logits: Tensor, q: float) -> Tensor:
    """Return ``(1 - sigmoid(z)^q) / q``."""
    # As exp(q log p), because the gradient of p^q is infinite where p underflows to 0.
    return (1 - torch.exp(q * logsigmoid(logits))) / q
