"""Bounds and simple baselines: AN, AN-LS, WAN, EM, IU, IUN and full labels, each one loss on the weak view."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.config.methods import (
    AnLsConfig,
    AssumedNegativeConfig,
    BceLsConfig,
    EntropyMaximisationConfig,
    FullLabelsConfig,
    IuConfig,
    IunConfig,
    WanConfig,
)
from training.data.batches import Batch
from training.losses import assumed_negative_entries, binary_entropy, mean_part, negative_log
from training.methods.base import Method, Sizes, StepOutput
from training.methods.known_negatives import charge_negatives


class MeanOverEntries(Method):
    """The mean over all B x C entries of a loss of weak-view logits and labels.

    Attributes:
        doubts_negatives: Whether the loss of unobserved labels would be wrong for a label that is known to be negative.
    """

    doubts_negatives: ClassVar[bool] = False

    @abstractmethod
    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss per entry (B, C); ``labels`` (B, C) are 0 or 1."""

    def labels(self, batch: Batch) -> Tensor:
        """Return the labels to learn from."""
        return batch.observed

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view and average :meth:`entries`."""
        logits = model(batch.weak).logits.float()
        entries = self.entries(logits, self.labels(batch))
        if self.doubts_negatives:
            entries = charge_negatives(entries, logits.sigmoid(), batch)
        return StepOutput({"entries": mean_part(entries)})


class AssumedNegative(MeanOverEntries):
    """AN (Cole et al., CVPR 2021): ``mean[y nl(p) + (1 - y) nl(1 - p)]`` with ``nl(x) = -log(x + 1e-5)``."""

    def __init__(self, config: AssumedNegativeConfig, sizes: Sizes) -> None:
        super().__init__()

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return BCE per entry."""
        return assumed_negative_entries(logits, labels)


class AnLs(MeanOverEntries):
    """AN-LS (Cole et al., CVPR 2021): AN with smoothed labels, ``1 - a`` instead of 1 and ``a`` instead of 0.

    a is 0.1, as released; the usual label smoothing of two classes would use a / 2.
    """

    def __init__(self, config: AnLsConfig | BceLsConfig, sizes: Sizes) -> None:
        super().__init__()
        self._smoothing = config.smoothing

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return smoothed BCE per entry."""
        right, wrong = assumed_negative_entries(logits, labels), assumed_negative_entries(logits, 1 - labels)
        return (1 - self._smoothing) * right + self._smoothing * wrong


class FullLabels(MeanOverEntries):
    """BCE on the true labels: the upper bound of every table."""

    needs_true_labels = True

    def __init__(self, config: FullLabelsConfig, sizes: Sizes) -> None:
        super().__init__()

    def labels(self, batch: Batch) -> Tensor:
        """Return the true labels."""
        assert batch.true is not None, "checked when the run is built"
        return batch.true

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return BCE per entry."""
        return assumed_negative_entries(logits, labels)


class BceLs(AnLs):
    """BCE-LS (Cole et al., CVPR 2021): the smoothed BCE of AN-LS on the true labels."""

    needs_true_labels = True

    def labels(self, batch: Batch) -> Tensor:
        """Return the true labels."""
        assert batch.true is not None, "checked when the run is built"
        return batch.true


class Iun(MeanOverEntries):
    """IUN (Cole et al., CVPR 2021): BCE on the observed positive and all true negatives, averaged over all entries.

    ``mean[y nl(p) + (1 - t) nl(1 - p)]`` with t the true labels: an unobserved positive costs nothing. It is what
    rejection would be if it were perfect, and needs the true labels.
    """

    needs_true_labels = True

    def __init__(self, config: IunConfig, sizes: Sizes) -> None:
        super().__init__()

    def labels(self, batch: Batch) -> Tensor:
        """Return 1 where the positive was observed, 0 for the negatives that are told, -1 for all else."""
        assert batch.true is not None, "checked when the run is built"
        return torch.where(batch.observed > 0, 1.0, batch.true.neg())

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return BCE per entry, 0 where ``labels`` is -1."""
        return torch.where(labels < 0, 0, assumed_negative_entries(logits, labels))


class Iu(Iun):
    """IU (Cole et al., CVPR 2021): as IUN, but of each image's true negatives only ``num_negatives`` are told.

    The release reads them from the labels, which single positives lack. Here they are drawn from the true ones, once
    per run and the same in every epoch: those with the lowest of fixed random numbers.
    """

    ranks: Tensor

    def __init__(self, config: IuConfig, sizes: Sizes) -> None:
        super().__init__(IunConfig(), sizes)
        self._num_negatives = config.num_negatives
        self.register_buffer("ranks", torch.rand(sizes.num_examples, sizes.num_classes))

    def labels(self, batch: Batch) -> Tensor:
        """Return 1 where the positive was observed, 0 for the negatives that are told, -1 for all else."""
        labels = super().labels(batch)
        # Above every random number, so that no other entry comes before a negative.
        ranks = torch.where(labels == 0, self.ranks[batch.index], 2.0)
        told = ranks.argsort(dim=1, stable=True).argsort(dim=1) < self._num_negatives
        return torch.where((labels == 0) & ~told, -1.0, labels)


class Wan(MeanOverEntries):
    """WAN (Mac Aodha et al., ICCV 2019): AN with unobserved entries weighted 1 / (C - 1), or ``negative_weight``."""

    doubts_negatives = True

    def __init__(self, config: WanConfig, sizes: Sizes) -> None:
        super().__init__()
        published = 1 / max(sizes.num_classes - 1, 1)
        self._negative_weight = published if config.negative_weight is None else config.negative_weight

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return weighted BCE per entry; the mean divides by all B x C entries."""
        losses = assumed_negative_entries(logits, labels)
        return torch.where(labels > 0, losses, self._negative_weight * losses)


class EntropyMaximisation(MeanOverEntries):
    """EM (Zhou et al., ECCV 2022): ``nl(p)`` where observed, ``-alpha H(p)`` elsewhere.

    Entropy is maximised, so the loss may be negative. The authors compute F1 at a threshold of 0.75, not 0.5.
    """

    doubts_negatives = True

    def __init__(self, config: EntropyMaximisationConfig, sizes: Sizes) -> None:
        super().__init__()
        self._entropy_weight = config.entropy_weight

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss per entry."""
        probs = logits.sigmoid()
        return torch.where(labels > 0, negative_log(probs), -self._entropy_weight * binary_entropy(probs))
