"""Keep a recording's clips consistent: the asset regulariser of L48 (Sun et al., NeurIPS 2025, arXiv 2511.00252).

With z the logits of a clip's weak view, p = sigmoid(z) and m the running mean of the probabilities of its recording,

    L + alpha mean BCE(z, m),        m <- (1 - eps) m + eps mean{p of the recording's clips in the batch}

over all B x C entries; alpha is ``loop.recording_weight``, 1 - eps is ``loop.recording_decay`` (0.999 there). m starts
uniformly between 0.4 and 0.6, and the loss reads it before the update of the same step.

Differences from the authors' code (AssetReg): there, of several clips of a recording in one batch, only the last moves
m; ours takes their mean. There, known positives of the first recordings start at 1, by a count that stops at the first
one that is not in train; here all start alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training.data.batches import Batch
from training.distributed import gather_rows
from training.losses import LossPart, mean_part
from training.models.base import ModelOutput


class RecordingMeans(nn.Module):
    """The regulariser of a run. State: m, a row for each recording.

    Args:
        recording_of: long (N,), the recording of each training image, from 0.
        num_classes: C.
        weight: alpha.
        decay: 1 - eps.
    """

    means: Tensor
    recording_of: Tensor

    def __init__(self, recording_of: Tensor, num_classes: int, weight: float, decay: float) -> None:
        super().__init__()
        self._weight, self._decay = weight, decay
        self._seen: tuple[Tensor, Tensor] | None = None
        self.register_buffer("recording_of", recording_of, persistent=False)
        num = int(recording_of.max()) + 1 if len(recording_of) else 0
        self.register_buffer("means", torch.empty(num, num_classes).uniform_(0.4, 0.6))

    def part(self, logits: Tensor, index: Tensor) -> LossPart:
        """Return the term of this rank's part of a batch, and remember the batch for :meth:`update`.

        Args:
            logits: (B, C), with gradient.
            index: long (B,), as in ``batch.index``.
        """
        which = self.recording_of[index]
        self._seen = which, logits.detach().sigmoid()
        # A copy, because the update comes before the gradient is used.
        targets = self.means[which].clone()
        return mean_part(binary_cross_entropy_with_logits(logits, targets, reduction="none"), self._weight)

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Move the means by the batch that :meth:`part` saw last, unless ``finite`` (bool scalar) is False."""
        assert self._seen is not None
        which, probs = (gather_rows(each) for each in self._seen)
        sums = torch.zeros_like(self.means).index_add_(0, which, probs.to(self.means.dtype))
        counts = torch.bincount(which, minlength=len(self.means))[:, None]
        moved = self._decay * self.means + (1 - self._decay) * sums / counts.clamp_min(1)
        self.means.copy_(torch.where(finite & (counts > 0), moved, self.means))


class WeakLogits(nn.Module):
    """Passes images to a model, and keeps the logits of a batch's weak view.

    Args:
        model: The network.
        batch: The batch.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model, self._weak = model, batch.weak
        self.logits: Tensor | None = None

    def forward(self, images: Tensor) -> ModelOutput:
        """Return the model's output."""
        output: ModelOutput = self.model(images)
        # The first pass: IGNORE may pass the weak view again, without gradient.
        if images is self._weak and self.logits is None:
            self.logits = output.logits.float()
        return output
