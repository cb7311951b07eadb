"""GR Loss: generalised robust loss with soft pseudo-labels (Chen et al., IJCAI 2024); GPR and AEVLP build on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from training.config.clip_methods import AevlpConfig, GprConfig, GrLossConfig
from training.data.batches import Batch
from training.data.store.clip_scores import ClipScores
from training.losses import LossPart, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.clip_labels import find_damp_labels
from training.methods.epr import expected_part
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import charge_negatives, may_be_positive

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
        # Detached: pseudo-label and weight are targets, not something to learn.
        held = probs.detach()
        slope, offset, centre, width = self._schedule(epoch)
        soft = (slope * held + offset).sigmoid()
        weight = torch.exp(-((held - centre) / width).square() / 2)
        robust = soft * _robust(logits, self._config.q_pos) + (1 - soft) * _robust(-logits, self._config.q_neg)
        unobserved = self._unobserved(probs, weight, weight * robust, batch)
        entries = torch.where(batch.observed > 0, _negative_log(probs), unobserved)
        return mean_part(charge_negatives(entries, probs, batch))

    def _unobserved(self, probs: Tensor, weight: Tensor, unknown: Tensor, batch: Batch) -> Tensor:
        """Return what each entry costs if it was not observed.

        Args:
            probs: p, (B, C).
            weight: V, (B, C).
            unknown: What an entry costs of which nothing is known, (B, C).
            batch: The batch.
        """
        return unknown

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

    K is the true mean number of positives, which a user with single positives does not have. The whole method (aevlp)
    also has pseudo-labels from CLIP, for which it has two more terms; without pseudo-labels these are empty. The mean
    is over the global batch.
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


class Aevlp(Gpr):
    """AEVLP, the loss of GPR with pseudo-labels from CLIP (DAMP; arXiv 2508.20381, ICCV 2025).

    Observed and unknown entries cost what they do for GPR, and the prior is GPR's. With V as in GR Loss and ``nl(x) =
    -log(x + 1e-7)``, an entry with a pseudo-label costs

        clip(1 - V, lambda_2, lambda_1) (rho nl(p) + (1 - rho) nl(1 - p))    pseudo-positive
        V nl(1 - p)                                                          pseudo-negative

    The pseudo-labels, with s_0 the softmax of cos / 0.01 over the classes for the whole image, and s_t for each tile of
    a 4 x 4 grid: eta' = min(eta, s_0 of the observed class), and for every class

        s = 1/2 s_0 + 1/2 (max_t s_t  if that is over eta',  else  min_t s_t)

    Of the top_k classes with the highest s, those with s at or over the threshold are pseudo-positives. The tenth of
    the classes with the lowest s are pseudo-negatives. Of an image without any observed label, eta' is 0.

    Differences from the released code:
      * It flips images and tiles at random and scores them again in every step; the paper keeps positives that it found
        in an earlier epoch. Ours are scored once, unflipped, so every epoch has the same labels.
      * It sets the lowest scores (by the mean over the tiles, not s) to "unknown", so that it has no pseudo-negatives.
      * It puts the text features through a graph network with random weights, and normalises CLIP's pixels as
        ImageNet's.
      * Tiles are cut from the stored square image, not from the original.

    State: each entry's pseudo-label (N, C): 1, -1, or 0 where there is none.
    """

    clip_labels: Tensor

    def __init__(self, config: AevlpConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self._damp, self.clip_model = config, config.clip_model
        self.register_buffer("clip_labels", torch.zeros(sizes.num_examples, sizes.num_classes, dtype=torch.int8))

    def take_scores(self, scores: ClipScores, observed: Tensor) -> None:
        """Find the pseudo-labels."""
        config = self._damp
        self.clip_labels.copy_(
            find_damp_labels(
                scores,
                observed.cpu(),
                tile_threshold=config.tile_threshold,
                positive_threshold=config.positive_threshold,
                top_k=config.top_k,
                negative_frac=config.negative_frac,
            )
        )

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        output = super().step(model, batch, epoch)
        unknown = may_be_positive(batch)
        found = (self.clip_labels[batch.index] > 0) & unknown
        return StepOutput(output.parts, sums=count_found(found, unknown, batch.true))

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return how well pseudo-positives fit the true labels, where these are known."""
        return found_metrics(sums)

    def _unobserved(self, probs: Tensor, weight: Tensor, unknown: Tensor, batch: Batch) -> Tensor:
        config, found = self._damp, self.clip_labels[batch.index]
        positive, negative = _negative_log(probs), _negative_log(1 - probs)
        smoothed = config.positive_share * positive + (1 - config.positive_share) * negative
        labelled = (1 - weight).clamp(config.least_weight, config.most_weight) * smoothed
        return torch.where(found > 0, labelled, torch.where(found < 0, weight * negative, unknown))


def _negative_log(probs: Tensor) -> Tensor:
    return -torch.log(probs + _EPS)


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def _robust(logits: Tensor, q: float) -> Tensor:
    """Return ``(1 - sigmoid(z)^q) / q``."""
    # As exp(q log p), because the gradient of p^q is infinite where p underflows to 0.
    return (1 - torch.exp(q * logsigmoid(logits))) / q
