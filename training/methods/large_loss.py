"""Large loss matters: reject or correct the largest losses of unobserved labels (Kim et al., CVPR 2022).

The first epoch is that of AN. With ``l`` the BCE with logits of assumed negatives, epochs t counted from 1 and N the
B x C entries of the global batch, from t = 2 on

    k = ceil(N (t - 1) delta)   for LL-R and LL-Ct,    k = ceil(N delta)   for LL-Cp
    S = the unobserved entries whose loss is at least the k-th largest of the unobserved entries; one that is known to
        be negative is not among them
    L = 1/N sum l_ic            with, for the entries of S:   0 (LL-R),   -log p_ic (LL-Ct, LL-Cp)

LL-Cp also keeps S: a corrected label counts as observed from the next step on.

BoostLU (Kim et al., CVPR 2023) is the same on a model whose positive CAM values are multiplied by 5, in training and
evaluation: ``model.cam_boost`` 5, which can be combined with any scheme.

Where the releases differ from each other or from this code:
  * Ties with the k-th largest loss are in S both for the loss and for LL-Cp's corrections (BoostLU's code). The LL
    paper's code has ties in S for the loss, but compares strictly for the corrections, which leaves the k-th largest
    label uncorrected in every batch.
  * The LL paper's code compares the scheme's name by identity, which never holds for LL-Cp: its LL-Cp takes the k of
    LL-Ct and corrects no label permanently. Ours is that of the paper and of BoostLU's code.
  * k is rounded before it is rounded up. The releases compute it from ``1 - clean_rate`` in floating point, which made
    it one larger or smaller in 10 of 1,800 settings that were compared.
  * The largest losses are those of the global batch; the releases run in one process.
  * LL-Cp's corrections are state of the method, kept per example; the releases write them into the dataset, where
    workers may keep old copies.
  * ``delta_rel_percent`` is in percent, as on the releases' command line. The LL paper stops when validation mAP falls
    3 below its best: ``loop.max_drop_percent`` 3 (recipe ``published``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training.config.methods import LargeLossConfig
from training.data.batches import Batch
from training.distributed import gather_rows
from training.losses import mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import may_be_positive


class LargeLoss(Method):
    """LL as in the module's docstring. State of LL-Cp: which unobserved labels were corrected, bool (N, C)."""

    corrected: Tensor

    def __init__(self, config: LargeLossConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config
        if config.scheme == "LL-Cp":
            self.register_buffer("corrected", torch.zeros(sizes.num_examples, sizes.num_classes, dtype=torch.bool))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view; the largest losses are chosen by their values, without gradient."""
        logits = model(batch.weak).logits.float()
        known, open_ = batch.observed > 0, may_be_positive(batch)
        if self._config.scheme == "LL-Cp":
            known = known | self.corrected[batch.index]
        losses = binary_cross_entropy_with_logits(logits, known.float(), reduction="none")
        large = self._largest(losses.detach(), ~known & open_, epoch)
        flipped = binary_cross_entropy_with_logits(logits, (~known).float(), reduction="none")
        # Not 0 * losses, which would be NaN for an infinite loss.
        kept = torch.where(large, 0 if self._config.scheme == "LL-R" else flipped, losses)
        output = StepOutput({"entries": mean_part(kept)}, sums=count_found((known | large) & open_, open_, batch.true))
        if self._config.scheme == "LL-Cp":
            output.row_updates["corrected"] = (batch.index, self.corrected[batch.index] | large)
        return output

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Report how many unobserved labels were rejected or corrected, and how often that was right."""
        return found_metrics(sums)

    def _largest(self, losses: Tensor, candidates: Tensor, epoch: int) -> Tensor:
        """Return which candidates (B, C) are among the k largest losses of the global batch, including ties."""
        if epoch < 2:
            return torch.zeros_like(candidates)
        # Losses are not negative, so a 0 is among the k largest only if there are fewer than k candidates.
        ranked = torch.where(candidates, losses, 0)
        everywhere = gather_rows(ranked).flatten()
        num = min(self._num_large(len(everywhere), epoch), len(everywhere))
        if num == 0:
            return torch.zeros_like(candidates)
        return candidates & (ranked >= everywhere.topk(num).values[-1])

    def _num_large(self, num_entries: int, epoch: int) -> int:
        epochs = 1 if self._config.scheme == "LL-Cp" else epoch - 1
        # Round first: 1000 entries x 3 epochs x 0.1 % are 3, but 3.0000000000000004 would be rounded up to 4.
        return math.ceil(round(num_entries * epochs * self._config.delta_rel_percent / 100, 6))
