"""Focal, ASL, Hill and SPLC: losses on assumed negatives that weight entries by how hard they are.

The released code of all four (robust-loss-mlml; for ASL also its own) sums over the batch. Here the mean over B x C
entries is taken, as for all methods; with Adam, a constant factor matters only through epsilon and weight decay. Both
repositories have training scripts, ASL's for all labels of COCO, robust-loss-mlml's for single positives of COCO and
NUS-WIDE: batches of 128, lr 1e-4, one-cycle, weight decay 1e-4 and averaged weights (recipe ``published``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from training.config.methods import AslConfig, FocalConfig, HillConfig, SplcConfig
from training.data.batches import Batch
from training.losses import mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import may_be_positive
from training.methods.supervised import MeanOverEntries

_LOWEST = 1e-8
"""Lower bound of probabilities before the logarithm, as released."""


def _asymmetric_entries(logits: Tensor, labels: Tensor, gamma_pos: float, gamma_neg: float, clip: float) -> Tensor:
    """Return ``-(1 - p)^g+ log p`` where the label is 1 and ``-q^g- log(1 - q)``, ``q = max(p - clip, 0)``, elsewhere.

    The powers are detached: no gradient goes through them.
    """
    probs = logits.sigmoid()
    clipped = (probs - clip).clamp_min(0)
    positive = (1 - probs).detach() ** gamma_pos * -torch.log(probs.clamp_min(_LOWEST))
    negative = clipped.detach() ** gamma_neg * -torch.log((1 - clipped).clamp_min(_LOWEST))
    return torch.where(labels > 0, positive, negative)


class Focal(MeanOverEntries):
    """Focal loss (Lin et al., ICCV 2017): ``-(1 - p)^2 log p`` where observed, ``-p^2 log(1 - p)`` elsewhere.

    As in robust-loss-mlml, the reference implementation in this field, no gradient goes through the weight; in the
    original paper it does.
    """

    def __init__(self, config: FocalConfig, sizes: Sizes) -> None:
        super().__init__()
        self._gamma = config.gamma

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss per entry."""
        return _asymmetric_entries(logits, labels, self._gamma, self._gamma, clip=0)


class Asl(MeanOverEntries):
    """ASL (Ridnik et al., ICCV 2021): ``-(1 - p)^g+ log p`` where observed, ``-q^g- log(1 - q)`` elsewhere.

    ``q = max(p - m, 0)``. No gradient goes through the weights, as in the authors' training script.
    """

    def __init__(self, config: AslConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss per entry."""
        return _asymmetric_entries(logits, labels, self._config.gamma_pos, self._config.gamma_neg, self._config.clip)


class Hill(MeanOverEntries):
    """Hill (Zhang et al., arXiv 2112.07368): ``-(1 - p_m)^2 log p_m`` where observed, ``(1.5 - p) p^2`` elsewhere.

    ``p_m = sigmoid(z - 1)``. The gradient goes through all factors, as released.
    """

    doubts_negatives = True

    def __init__(self, config: HillConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss per entry."""
        shifted, probs = logits - self._config.margin, logits.sigmoid()
        # logsigmoid stays finite where the sigmoid underflows to 0, whose logarithm would be infinite.
        positive = (-shifted).sigmoid() ** self._config.gamma * -logsigmoid(shifted)
        return torch.where(labels > 0, positive, (self._config.hill_lambda - probs) * probs.square())


class Splc(Method):
    """SPLC (Zhang et al., arXiv 2112.07368): in each step, treat unobserved labels of high probability as positive.

    With ``z' = z - 1`` where observed and ``z' = z`` elsewhere, ``t = 1`` where observed or, after the warm-up, where
    ``sigmoid(z') > tau``: ``-(1 - p')^2 log p'`` where t is 1, ``-p'^2 log(1 - p')`` elsewhere, ``p' = sigmoid(z')``.
    The gradient goes through all factors. The released ``change_epoch`` 1 counts epochs from 0, so it means one epoch
    of warm-up.
    """

    def __init__(self, config: SplcConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        logits = model(batch.weak).logits.float()
        positive = batch.observed > 0
        shifted = torch.where(positive, logits - self._config.margin, logits)
        corrected, open_ = torch.zeros_like(positive), may_be_positive(batch)
        if epoch > self._config.warmup_epochs:
            corrected = (shifted.detach().sigmoid() > self._config.positive_threshold) & open_
        # The loss of a negative is that of a positive with the sign of its logit flipped.
        signed = torch.where(positive | corrected, shifted, -shifted)
        losses = (-signed).sigmoid() ** self._config.gamma * -logsigmoid(signed)
        return StepOutput({"entries": mean_part(losses)}, sums=count_found(corrected, open_, batch.true))

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Report how many unobserved labels were corrected, and how often that was right."""
        return found_metrics(sums)
