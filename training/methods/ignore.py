"""IGNORE: information-gap-based false-negative loss rejection (Song et al., ECCV 2024).

**tau** is the setting ``method.cam_threshold``; it is applied to the class activation map in
:meth:`Ignore._information_gap`, by :func:`training.models.cam.cam_mask`.

Let x be a weak view, x_s a strong view, and x_m = x * 1[CAM > tau] the weak view masked to the CAM of its one observed
class, with logits z, z_s, z_m and observed labels y. Then

    gap   = |z - z_m|                                           (detached; on logits)
    T_gap <- d T_gap + (1 - d) mean{gap_ic : y_ic = 1}          (one scalar)
    T_avg,c <- d T_avg,c + (1 - d) mean_i z_ic                  (one per class)
    r_ic  = 1[gap_ic > T_gap] 1[z_ic > T_avg,c] 1[y_ic = 0]     (0 in the first ``warmup_epochs`` epochs, and for
                                                                labels that are known to be negative)
    L     = w_spbc mean{nl(p_ic) : y_ic = 1} + mean{l(z_s)_ic : r_ic = 0} + w_reg mean (z_s - z)^2

with ``nl(x) = -log(x + 1e-5)``, p = sigmoid(z) and l the assumed-negative BCE of the strong view. Both thresholds are
updated before the loss of the same batch, from the first epoch on. Where the supplement is silent, this follows the
released code: the gap is absolute, thresholds start at 0 without bias correction, and the regularisation has a gradient
through both views.

Differences from the released code:
  * CAMs are normalised per image (as in the paper); ``cam_normalisation=batch`` does what the code does.
  * The masked pass keeps no graph (its loss never had a gradient).
  * A batch without any observed positive leaves T_gap as it is and has no SPBC term; in the code both become NaN.
  * All means are over the global batch.

Ablations: ``rejection=none``; ``use_average_test=false`` (r depends on the gap alone); ``spbc_weight=0``;
``reg_weight=0``; ``view=weak`` (l of z instead of z_s).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from training.config.methods import IgnoreConfig
from training.data.batches import Batch
from training.distributed import sum_over_ranks
from training.losses import LossPart, assumed_negative_entries, masked_mean_part, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import may_be_positive
from training.metric_names import (
    TRAIN_AVERAGE_LOGIT_THRESHOLD,
    TRAIN_EMPTY_MASK_FRAC,
    TRAIN_GAP_THRESHOLD,
    TRAIN_MASK_KEPT_FRAC,
)
from training.models.base import ModelOutput
from training.models.batch_norm import masked_pass
from training.models.cam import cam_mask, normalise_cam, observed_cam


class Ignore(Method):
    """IGNORE as in the module's docstring.

    State: both running thresholds (before bias correction) and how often each was updated.
    """

    gap_threshold: Tensor
    average_threshold: Tensor
    num_gap_updates: Tensor
    num_average_updates: Tensor

    def __init__(self, config: IgnoreConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config
        self._average_decay = config.gap_decay if config.average_decay is None else config.average_decay
        self.needs_strong_view = config.view == "strong" or config.reg_weight > 0
        self.needs_true_labels = config.rejection == "oracle"
        self.register_buffer("gap_threshold", torch.zeros(()))
        self.register_buffer("average_threshold", torch.zeros(sizes.num_classes))
        self.register_buffer("num_gap_updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("num_average_updates", torch.zeros((), dtype=torch.long))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward both views, and with ``rejection=gap`` the masked one too, without gradient.

        With ``masked_pass_bn=eval_both`` the gap takes two extra passes in eval mode.
        """
        # The passes keep this order (weak, strong, masked): in train mode each of them moves BatchNorm's running
        # statistics.
        weak = model(batch.weak)
        # In float32 whatever the network computes in: thresholds compare values that differ little.
        logits = strong_logits = weak.logits.float()
        if self.needs_strong_view:
            assert batch.strong is not None
            strong_logits = model(batch.strong).logits.float()
        positive, open_ = batch.observed > 0, may_be_positive(batch)
        updates: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        rejected = torch.zeros_like(positive)
        if self._config.rejection == "gap":
            gap = self._information_gap(model, batch, weak, sums)
            # Thresholds of this batch's own update decide on this batch, as released.
            updates = self._new_thresholds(gap, logits.detach(), positive)
            if epoch > self._config.warmup_epochs:
                rejected = self._reject(gap, logits.detach(), open_, updates)
        elif self._config.rejection == "oracle" and epoch > self._config.warmup_epochs:
            assert batch.true is not None, "checked when the run is built"
            rejected = (batch.true > 0) & open_
        sums |= count_found(rejected, open_, batch.true)
        return StepOutput(self._parts(logits, strong_logits, batch.observed, rejected), updates, sums)

    def thresholds(self) -> tuple[Tensor, Tensor] | None:
        """Return the gap threshold () and the average-logit thresholds (C,), or None without ``rejection=gap``."""
        if self._config.rejection != "gap":
            return None
        return self._thresholds_of(
            self.gap_threshold, self.average_threshold, self.num_gap_updates, self.num_average_updates
        )

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Report thresholds and masks, and the quality of rejection where true labels are known."""
        metrics = {}
        thresholds = self.thresholds()
        if thresholds is not None:
            gap, average = thresholds
            metrics = {TRAIN_GAP_THRESHOLD: float(gap)}
            if self._config.use_average_test:
                metrics[TRAIN_AVERAGE_LOGIT_THRESHOLD] = float(average.mean())
        if sums.get("masks"):
            metrics[TRAIN_MASK_KEPT_FRAC] = sums["kept_frac"] / sums["masks"]
            metrics[TRAIN_EMPTY_MASK_FRAC] = sums["empty"] / sums["masks"]
        return metrics if self._config.rejection == "none" else metrics | found_metrics(sums)

    def _parts(self, logits: Tensor, strong_logits: Tensor, observed: Tensor, rejected: Tensor) -> dict[str, LossPart]:
        # SPBC learns from the weak view, whichever view the other entries learn from.
        spbc = masked_mean_part(negative_log(logits.sigmoid()), observed > 0, self._config.spbc_weight)
        viewed = strong_logits if self._config.view == "strong" else logits
        ignore = masked_mean_part(assumed_negative_entries(viewed, observed), ~rejected)
        reg = mean_part(mse_loss(strong_logits, logits, reduction="none"), self._config.reg_weight)
        return {"spbc": spbc, "ignore": ignore, "reg": reg}

    @torch.no_grad()
    def _information_gap(self, model: nn.Module, batch: Batch, weak: ModelOutput, sums: dict[str, Tensor]) -> Tensor:
        """Return the gap ``|z - z_m|`` (B, C), and add statistics of the masks to ``sums``.

        This is where tau (``cam_threshold``) is applied: the masked image keeps the pixels where the normalised CAM of
        the observed class exceeds it.
        """
        has_positive = batch.observed.sum(1) > 0
        cam = observed_cam(weak.cams.float(), batch.observed)
        normalised = normalise_cam(cam, has_positive, self._config.cam_normalisation)
        height, width = batch.weak.shape[-2:]
        tau = self._config.cam_threshold
        mask = cam_mask(normalised, has_positive, tau, (height, width))
        kept = mask.float().mean((1, 2))
        sums["masks"] = has_positive.sum()
        sums["kept_frac"] = torch.where(has_positive, kept, 0).sum()
        # A mask may be empty, for example with a flat map; the masked image is then all mean colour.
        sums["empty"] = ((kept == 0) & has_positive).sum()
        # Images are normalised, so the 0 of a masked pixel is the dataset's mean colour.
        masked = batch.weak * mask[:, None]
        with masked_pass(model, self._config.masked_pass_bn):
            if self._config.masked_pass_bn != "eval_both":
                whole, cut = weak.logits, model(masked).logits
            else:
                # In eval mode no row depends on another, so both images of the gap can go through as one batch.
                whole, cut = model(torch.cat([batch.weak, masked])).logits.chunk(2)
        gap: Tensor = (whole.float() - cut.float()).abs()
        return gap

    @torch.no_grad()
    def _new_thresholds(self, gap: Tensor, logits: Tensor, positive: Tensor) -> dict[str, Tensor]:
        """Return the thresholds and counters after this batch; sums and counts are over all ranks."""
        # One all-reduce for all four quantities: gap sum, number of positives, logit sums and number of images.
        local = torch.cat([torch.where(positive, gap, 0).sum()[None], positive.sum()[None].float(), logits.sum(0)])
        totals = sum_over_ranks(torch.cat([local, local.new_full((1,), len(logits))]))
        gap_sum, num_positive, logit_sums, num_images = totals[0], totals[1], totals[2:-1], totals[-1]
        decay, average_decay = self._config.gap_decay, self._average_decay
        # Over no positive at all the mean would be 0/0: divide by 1 and keep the old threshold below.
        moved = decay * self.gap_threshold + (1 - decay) * gap_sum / num_positive.clamp_min(1)
        return {
            "gap_threshold": torch.where(num_positive > 0, moved, self.gap_threshold),
            "num_gap_updates": self.num_gap_updates + (num_positive > 0),
            "average_threshold": average_decay * self.average_threshold + (1 - average_decay) * logit_sums / num_images,
            "num_average_updates": self.num_average_updates + 1,
        }

    def _thresholds_of(
        self, gap: Tensor, average: Tensor, num_gap: Tensor, num_average: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Before the first update both thresholds are 0, and so would be 1 - d^0: hence at least one update.
        if self._config.correct_gap_bias:
            gap = gap / (1 - self._config.gap_decay ** num_gap.clamp_min(1))
        if self._config.correct_average_bias:
            average = average / (1 - self._average_decay ** num_average.clamp_min(1))
        if not self._config.use_average_test:
            # Every logit exceeds -inf: the test always passes.
            average = torch.full_like(average, -torch.inf)
        return gap * self._config.gap_threshold_scale, average

    @torch.no_grad()
    def _reject(self, gap: Tensor, logits: Tensor, open_: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        gap_threshold, average_threshold = self._thresholds_of(
            state["gap_threshold"], state["average_threshold"], state["num_gap_updates"], state["num_average_updates"]
        )
        return (gap > gap_threshold) & (logits > average_threshold) & open_
