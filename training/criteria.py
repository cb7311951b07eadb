"""Criteria that rank configurations and epochs by observed labels alone: one positive per image, all else unknown.

Each is a class with one metric of a validation split, in percent, higher is better. All are computed after every epoch,
whatever the protocol selects by, because they cost next to nothing, and because a sweep that has true labels too then
says how well they rank (``orchestrator report``). PLENCH (arXiv 2502.10184) makes the case for such criteria in
partial-label learning, where the observed labels contain the true one; here the true labels contain the observed one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from training.metric_names import VAL_COVERING_RATE, VAL_ESTIMATED_ACCURACY, VAL_OBSERVED_MAP
from training.metrics import average_precision
from training.priors import estimate_prior

MOST_COVERED = 3
"""How many labels an image is given, as top-3 annotation does (Gong et al., arXiv 1312.4894)."""


class Criterion(ABC):
    """Measures one figure of a split without true labels.

    Attributes:
        metric: Its name among a run's metrics.
    """

    metric: ClassVar[str]

    @abstractmethod
    def measure(self, logits: Tensor, observed: Tensor) -> float:
        """Return the figure in percent.

        Args:
            logits: (N, C), N at least 1.
            observed: bool (N, C); all other labels are unknown.
        """


class ObservedMap(Criterion):
    """Mean average precision on the observed labels: every unknown positive counts as an error."""

    metric = VAL_OBSERVED_MAP

    def measure(self, logits: Tensor, observed: Tensor) -> float:
        """Return the mean over classes; a class without an observed positive counts as 0."""
        return 100 * float(average_precision(logits, observed).mean())


class CoveringRate(Criterion):
    """How often the observed label is among the k highest scores of its image.

    An observed label that is drawn from the n positives of an image with equal probability is among the k highest with
    probability ``|top k and positive| / n``: the rate is an unbiased estimate of the mean over images of recall at k.
    (PLENCH's covering rate is that of the highest score alone.) k is 3, and less where there are few classes.
    """

    metric = VAL_COVERING_RATE

    def measure(self, logits: Tensor, observed: Tensor) -> float:
        """Return the rate over images with an observed label; scores that are equal share the worse rank."""
        labelled = observed.any(1)
        if not bool(labelled.any()):
            return 0.0
        scores, known = logits[labelled].float().contiguous(), observed[labelled]
        num_classes = scores.shape[1]
        # How many of an image's scores are at least as high as each.
        ranks = num_classes - torch.searchsorted(scores.sort(1).values, scores)
        covered = known & (ranks <= max(1, min(MOST_COVERED, num_classes - 1)))
        return 100 * float((covered.sum(1).double() / known.sum(1)).mean())


class EstimatedAccuracy(Criterion):
    """100 minus the risk on the unknown true labels, estimated from observed positives and class priors.

    The risk is that of the absolute loss, the mean of ``|p - y|`` over images and classes. With the prior ``pi`` of a
    class, ``p`` over its observed positives and ``p`` over all images, it is without bias

        ``2 pi mean(1 - p | observed) + mean(p) - pi``

    (du Plessis, Niu and Sugiyama, NeurIPS 2014; CRISP, arXiv 2309.13886, takes the absolute value of the last two terms
    to train with), if the observed positives are a fair sample of all. In an image of many labels each is less likely
    observed, so crowded images count less here. The priors are CRISP's estimates from the scores themselves, so that
    nothing but observed labels is needed. The estimate can be above 100.
    """

    metric = VAL_ESTIMATED_ACCURACY

    def measure(self, logits: Tensor, observed: Tensor) -> float:
        """Return the mean over classes; one without an observed positive has the prior 0."""
        # In double precision: single precision rounds the highest probabilities to 1, which ties their scores.
        probs = logits.double().sigmoid()
        risks = [self._risk(probs[:, label], observed[:, label]) for label in range(probs.shape[1])]
        return 100 * (1 - float(torch.stack(risks).mean()))

    def _risk(self, probs: Tensor, observed: Tensor) -> Tensor:
        prior = estimate_prior(probs, observed)
        missed = (1 - probs[observed]).mean() if bool(observed.any()) else probs.new_zeros(())
        return 2 * prior * missed + probs.mean() - prior


CRITERIA: tuple[Criterion, ...] = (ObservedMap(), CoveringRate(), EstimatedAccuracy())


def measure_criteria(logits: Tensor, observed: Tensor) -> dict[str, float]:
    """Measure all criteria but observed mAP, which is among the metrics anyway; (N, C) as in :class:`Criterion`."""
    if not len(logits):
        return {}
    return {each.metric: each.measure(logits, observed) for each in CRITERIA if each.metric != VAL_OBSERVED_MAP}
