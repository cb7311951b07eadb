"""GR Loss: generalised robust loss with soft pseudo-labels (Chen et al., IJCAI 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from training.config.methods import GrLossConfig
from training.data.batches import Batch
from training.losses import mean_part
from training.methods.base import Method, Sizes, StepOutput

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
        logits = model(batch.weak).logits.float()
        probs = logits.sigmoid()
        slope, offset, centre, width = self._schedule(epoch)
        # Detached: pseudo-label and weight are targets, not something to learn.
        soft = (slope * probs.detach() + offset).sigmoid()
        weight = torch.exp(-((probs.detach() - centre) / width).square() / 2)
        unobserved = soft * _robust(logits, self._config.q_pos) + (1 - soft) * _robust(-logits, self._config.q_neg)
        return StepOutput(
            {"entries": mean_part(torch.where(batch.observed > 0, -torch.log(probs + _EPS), weight * unobserved))}
        )

    def _schedule(self, epoch: int) -> tuple[float, float, float, float]:
        """Return w, b, mu and sigma in an epoch."""
        config, before, after = self._config, (epoch - 1) / self._num_epochs, epoch / self._num_epochs
        return (
            _between(config.slope_first, config.slope_last, before),
            _between(config.offset_first, config.offset_last, before),
            _between(config.centre_first, config.centre_last, after),
            _between(config.width_first, config.width_last, after),
        )


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def _robust(logits: Tensor, q: float) -> Tensor:
    """Return ``(1 - sigmoid(z)^q) / q``."""
    # As exp(q log p), because the gradient of p^q is infinite where p underflows to 0.
    return (1 - torch.exp(q * logsigmoid(logits))) / q
