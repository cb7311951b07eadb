"""VLPL: EM with positive pseudo-labels from CLIP (Xing et al., CVPRW 2024, arXiv 2310.15985).

With p = sigmoid(z), ``nl(x) = -log(x + 1e-5)``, H the binary entropy, and s the softmax of cos / 0.01 over the classes
between an image and the names of the classes, an entry costs

    nl(p)                                   if the label was observed
    beta ((1 - e) nl(p) + e nl(1 - p))      if s is over the threshold: a pseudo-positive
    nl(1 - p)                               if it is known to be negative
    -alpha H(p)                             else

and the loss is the mean over all B x C entries. There are no pseudo-negatives, and no warm-up.

Differences from the released code:
  * It scores the training view, flipped at random, in every step; ours are scored once, unflipped.
  * Its CLIP is ViT-L/14 at 336 px, with pixels normalised as ImageNet's. ``method.clip_model`` chooses ours, whose
    pixels are normalised as CLIP's.
  * It compares with the bare names of the classes for VOC and COCO: ``orchestrator data score --prompt '{}'``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.config.clip_methods import VlplConfig
from training.data.batches import Batch
from training.data.store.clip_scores import ClipScores
from training.losses import binary_entropy, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import charge_negatives, may_be_positive


class Vlpl(Method):
    """VLPL as in the module's docstring. State: which entries are pseudo-positives, bool (N, C)."""

    clip_labels: Tensor

    def __init__(self, config: VlplConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config, self.clip_model = config, config.clip_model
        self.register_buffer("clip_labels", torch.zeros(sizes.num_examples, sizes.num_classes, dtype=torch.bool))

    def take_scores(self, scores: ClipScores, observed: Tensor) -> None:
        """Find the pseudo-labels."""
        self.clip_labels.copy_((scores.whole > self._config.positive_threshold) & ~observed.cpu())

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        config, probs = self._config, model(batch.weak).logits.float().sigmoid()
        unknown = may_be_positive(batch)
        found = self.clip_labels[batch.index] & unknown
        positive, negative = negative_log(probs), negative_log(1 - probs)
        labelled = config.pseudo_weight * ((1 - config.smoothing) * positive + config.smoothing * negative)
        unobserved = torch.where(found, labelled, -config.entropy_weight * binary_entropy(probs))
        entries = charge_negatives(torch.where(batch.observed > 0, positive, unobserved), probs, batch)
        return StepOutput({"entries": mean_part(entries)}, sums=count_found(found, unknown, batch.true))

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return how well pseudo-positives fit the true labels, where these are known."""
        return found_metrics(sums)
