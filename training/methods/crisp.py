"""CRISP: class-priors induced single-positive learning (arXiv 2309.13886).

Before each epoch after the warm-up, every class's prior is estimated from the scores p of the training images. With
q(z) the share of all n images whose score is at least z, and q+(z) that share of the n+ images that have the class as
their observed label,

    z*   = argmin over z of  q(z)/q+(z) + (1 + tau)/q+(z) (sqrt(log(4/delta) / 2n) + sqrt(log(4/delta) / 2n+))
    pi   = q(z*) / q+(z*),    tau = delta = 0.01

and the loss is the sum over classes of the risk under absolute loss

    2 pi_c mean{1 - p_ic : y_ic = 1} + |mean_i p_ic - pi_c|

with both means over the global batch; a class without an observed positive in the batch has only the second term. The
first ``warmup_epochs`` epochs are those of AN. A class without any observed positive has the prior 0. Known
negatives, which the paper does not have, get a term of their own: the mean over all entries of ``-log(1 - p)`` there.

Differences from the paper:
  * The paper adds a term on the logits, with a weight lambda, but gives neither its formula nor lambda. We leave it out
    rather than guess; the paper's scores may depend on it.
  * The risk is divided by C, so that a learning rate means about the same as for other methods.
  * Scores come from unaugmented images in eval mode; the paper does not say how it computes them.
z runs over the scores of the images with the class observed: q+ changes nowhere else, and q only falls. A prior is at
most 1. (This tau has nothing to do with IGNORE's.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config.methods import CrispConfig
from training.data.batches import Batch
from training.distributed import differentiable_sum_over_ranks
from training.losses import LossPart, assumed_negative_entries, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.known_negatives import charge_negatives
from training.metric_names import TRAIN_CLASS_PRIOR
from training.priors import estimate_prior


class Crisp(Method):
    """CRISP as in the module's docstring. State: the class priors (C,)."""

    priors: Tensor

    def __init__(self, config: CrispConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config, self._num_epochs = config, sizes.num_epochs
        self.register_buffer("priors", torch.zeros(sizes.num_classes))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        logits = model(batch.weak).logits.float()
        if epoch <= self._config.warmup_epochs:
            return StepOutput({"entries": mean_part(assumed_negative_entries(logits, batch.observed))})
        probs = logits.sigmoid()
        parts = {"risk": self._risk(probs, batch.observed > 0)}
        if batch.negative is not None:
            parts["negatives"] = mean_part(charge_negatives(torch.zeros_like(probs), probs, batch))
        return StepOutput(parts)

    def needs_train_scores(self, epoch: int) -> bool:
        """Return whether the next epoch needs the priors."""
        return self._config.warmup_epochs <= epoch < self._num_epochs

    @torch.no_grad()
    def end_epoch(
        self, epoch: int, logits: Tensor, observed: Tensor, negative: Tensor | None = None
    ) -> dict[str, float]:
        """Estimate the class priors; an image in which the class is known to be absent counts as scored 0."""
        # In double precision: single precision rounds the highest probabilities to 1, which ties their scores.
        probs = logits.double().sigmoid()
        if negative is not None:
            probs = probs.masked_fill(negative, 0)
        priors = [estimate_prior(probs[:, label], observed[:, label]) for label in range(probs.shape[1])]
        self.priors = torch.stack(priors).to(self.priors)
        return {TRAIN_CLASS_PRIOR: float(self.priors.mean())}

    def _risk(self, probs: Tensor, positive: Tensor) -> LossPart:
        num = probs.new_full((1,), float(len(probs)))
        misses = torch.where(positive, 1 - probs, 0).sum(0)
        # In one tensor, so that the ranks wait for each other only once.
        totals = differentiable_sum_over_ranks(torch.cat([misses, probs.sum(0), positive.sum(0).to(probs.dtype), num]))
        miss_sums, prob_sums, num_positive, num_images = totals.split([len(misses), len(misses), len(misses), 1])
        missed = 2 * self.priors * miss_sums / num_positive.detach().clamp_min(1)
        risk = (missed + (prob_sums / num_images.detach().clamp_min(1) - self.priors).abs()).mean()
        # The risk is the same on every rank. Weighted by each rank's rows, its mean over the ranks is the risk again.
        return LossPart(risk * num[0], num[0])
