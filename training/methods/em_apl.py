"""EM + APL: entropy maximisation with asymmetric pseudo-labelling (Zhou et al., ECCV 2022).

With p = sigmoid(z), ``nl(x) = -log(x + 1e-5)`` and H the binary entropy, an entry costs

    nl(p)                                  if the label was observed
    -alpha H(p)                            if nothing is known
    nl(1 - p)                              if it is known to be negative
    beta (t nl(p) + (1 - t) nl(1 - p))     if it has the pseudo-label t

and the loss is the mean over all B x C entries. After each epoch from the end of the warm-up on, the entries of each
class that are still unknown are ordered by p, and the lowest of them get t = p, permanently. Positive pseudo-labels are
never made: that is the asymmetry.

How rounds are counted: epochs count from 1. There is one round after each of the epochs ``warmup_epochs`` ... E - 1,
so R = E - warmup_epochs rounds. Each labels ``floor(proportion U_c / R)`` entries of class c, of which U_c were unknown
at first. Together they label ``proportion`` of them, up to less than one entry per round. Published: E = 10 and a
warm-up of 5 make R = 5 rounds, after the epochs 5 ... 9, of 0.18 U_c each. The released code labels in every epoch from
the warm-up on, in 11 - warmup_epochs rounds of that same share: the one after epoch 10 comes when there is nothing left
to train, has no effect, and is left out here. (Counted in, the rounds would ask for 1.08 U_c, more than there are.)

Differences from the released code:
  * p comes from unaugmented images; there it comes from one more pass over the augmented training batches.
  * There, a run stops at the first epoch whose validation mAP is not a new best. Here it does so only with
    ``loop.patience_epochs`` 0 (recipe ``published``); it may then stop before the warm-up is over. The number of rounds
    is that of the full length either way.
The authors compute F1 at a threshold of 0.75, not 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config.methods import EmAplConfig
from training.data.batches import Batch
from training.losses import binary_entropy, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.known_negatives import charge_negatives
from training.methods.ranks import rank_in_class
from training.metric_names import TRAIN_PSEUDO_LABELLED_FRAC

UNKNOWN = -1.0


class EmApl(Method):
    """EM + APL as in the module's docstring. State: each entry's pseudo-label (N, C) in 0-1, or UNKNOWN."""

    pseudo_labels: Tensor

    def __init__(self, config: EmAplConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config, self._num_epochs = config, sizes.num_epochs
        self.register_buffer("pseudo_labels", torch.full((sizes.num_examples, sizes.num_classes), UNKNOWN))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        probs = model(batch.weak).logits.float().sigmoid()
        pseudo = self.pseudo_labels[batch.index]
        positive, negative = negative_log(probs), negative_log(1 - probs)
        labelled = self._config.pseudo_weight * (pseudo * positive + (1 - pseudo) * negative)
        unobserved = torch.where(pseudo == UNKNOWN, -self._config.entropy_weight * binary_entropy(probs), labelled)
        entries = torch.where(batch.observed > 0, positive, unobserved)
        return StepOutput({"entries": mean_part(charge_negatives(entries, probs, batch))})

    def needs_train_scores(self, epoch: int) -> bool:
        """Return whether a round of pseudo-labelling follows this epoch."""
        return self._config.warmup_epochs <= epoch < self._num_epochs

    @torch.no_grad()
    def end_epoch(
        self, epoch: int, logits: Tensor, observed: Tensor, negative: Tensor | None = None
    ) -> dict[str, float]:
        """Pseudo-label the lowest scores of each class."""
        unknown = ~observed if negative is None else ~observed & ~negative
        num_rounds = self._num_epochs - self._config.warmup_epochs
        # In double precision, because floor() would turn a rounding error into an entry less.
        quotas = (unknown.sum(0).double() * self._config.negative_proportion / num_rounds).floor().long()
        probs = logits.sigmoid()
        open_ = (self.pseudo_labels == UNKNOWN) & unknown
        ranks = rank_in_class(torch.where(open_, probs, torch.inf))
        self.pseudo_labels = torch.where(open_ & (ranks < quotas), probs, self.pseudo_labels)
        num_unobserved = unknown.sum()
        return {TRAIN_PSEUDO_LABELLED_FRAC: float((self.pseudo_labels != UNKNOWN).sum() / num_unobserved.clamp_min(1))}
