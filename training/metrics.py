"""Compute the metrics of multi-label classification; scores are in percent, 0-100.

mAP is the mean over classes of non-interpolated average precision. It equals scikit-learn's, ties included. It ranks
logits, where the releases of SPML methods rank their sigmoids in single precision: these are nearly all equal from a
logit of about 13 on, and such ties cost 0.14 points in a comparison with logits up to 25. CP, CR and CF1 are means over
classes of per-class precision, recall and F1 (the definition that fits IGNORE's supplement, Table 2); CF1_harm is the
harmonic mean of CP and CR, which other papers call CF1; OP, OR and OF1 pool all entries. A class without a true
positive has a precision, recall and F1 of 0. A class without any positive label counts as 0 in the means over classes,
as in the SPML literature, or is left out of them (``absent_classes``).

The same metrics are computed on the observed labels and named ``split/observed_...``: they are all that a user without
true labels has. Their precision counts every unobserved positive as an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AbsentClasses = Literal["zero", "skip"]
"""How a class without any positive label enters the means over classes: as 0, or not at all."""

DEFAULT_THRESHOLD = 0.5
_BLOCK = 2**20
"""Entries ranked at a time, so that the memory for ranking (some 40 MiB) does not grow with the split."""


class MetricAccumulator:
    """Collect the logits and labels of a split batch by batch, and compute its metrics from all of them.

    Average precision depends on ranks, so every score is kept, in single precision: with its labels 6 bytes per entry,
    19 MB at COCO's test size (40,137 x 80). Scores stay on their device until :meth:`compute`, so that :meth:`update`
    never waits for a GPU.

    Args:
        num_classes: C.
        has_true: Whether true labels are known; without them only the metrics on observed labels are computed.
        device: Where the logits are; the CPU by default.
    """

    def __init__(self, num_classes: int, has_true: bool, device: torch.device | None = None) -> None:
        # Start with an empty part, so that there is something to concatenate without any example.
        nothing = torch.zeros(0, num_classes, dtype=torch.bool, device=device)
        self._device = nothing.device
        self._logits, self._observed = [nothing.float()], [nothing]
        self._true = [nothing] if has_true else None

    def update(self, logits: Tensor, true: Tensor | None, observed: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, C); doubles are rounded to single precision.
            true: bool (B, C), or None if unknown.
            observed: bool (B, C).
        """
        assert logits.shape == observed.shape
        assert (true is None) == (self._true is None)
        self._logits.append(logits.detach().float().to(self._device))
        self._observed.append(observed.to(self._device))
        if self._true is not None and true is not None:
            self._true.append(true.to(self._device))

    def compute(
        self, split: str, threshold: float = DEFAULT_THRESHOLD, absent_classes: AbsentClasses = "zero"
    ) -> dict[str, float]:
        """Compute every metric in percent: ``split/name`` on true labels, ``split/observed_name`` on observed ones.

        Args:
            split: ``val`` or ``test``.
            threshold: In 0-1; a probability above it counts as a positive. The authors of EM recommend 0.75 for models
                trained with EM.
            absent_classes: How a class without any positive enters the means over classes.
        """
        metrics: dict[str, float] = {}
        for prefix, labels in (("", self._true), ("observed_", self._observed)):
            if labels is not None:
                values = self._metrics_on(labels, threshold, absent_classes)
                metrics |= {f"{split}/{prefix}{name}": value for name, value in values.items()}
        return metrics

    def _metrics_on(self, labels: list[Tensor], threshold: float, absent_classes: AbsentClasses) -> dict[str, float]:
        # Count part by part on the device, so that only C x 3 numbers travel to the CPU.
        counts = [_count(logits.sigmoid() > threshold, part) for logits, part in zip(self._logits, labels, strict=True)]
        return _all_metrics(_average_precision(self._logits, labels), torch.stack(counts).sum(0).cpu(), absent_classes)


def compute_metrics(
    split: str,
    logits: Tensor,
    true: Tensor | None,
    observed: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
    absent_classes: AbsentClasses = "zero",
) -> dict[str, float]:
    """Compute every metric of a split from all its logits (N, C); see :class:`MetricAccumulator`."""
    accumulator = MetricAccumulator(logits.shape[1], has_true=true is not None)
    accumulator.update(logits, true, observed)
    return accumulator.compute(split, threshold, absent_classes)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute each class's average precision, the sum of (R_k - R_{k-1}) P_k over thresholds; ties share a threshold.

    Args:
        scores: (N, C), higher means more likely; doubles are rounded to single precision.
        labels: bool (N, C).

    Returns:
        float64 (C,) in 0-1, on CPU; 0 for a class without positives.
    """
    return _average_precision([scores], [labels])


def threshold_metrics(
    probs: Tensor, labels: Tensor, threshold: float = DEFAULT_THRESHOLD, absent_classes: AbsentClasses = "zero"
) -> dict[str, float]:
    """Compute CP, CR, CF1, CF1_harm, OP, OR and OF1 in percent, counting ``probs > threshold`` as positive.

    Args:
        probs: (N, C) in 0-1.
        labels: bool (N, C).
        threshold: In 0-1.
        absent_classes: How a class without any positive enters CP, CR and CF1.
    """
    return _threshold_metrics(_count(probs > threshold, labels), absent_classes)


def _all_metrics(ap: Tensor, counts: Tensor, absent_classes: AbsentClasses) -> dict[str, float]:
    mean = _mean_over_classes(ap, counts[:, 2], absent_classes)
    return {"mAP": 100 * mean} | _threshold_metrics(counts, absent_classes)


def _threshold_metrics(counts: Tensor, absent_classes: AbsentClasses) -> dict[str, float]:
    """Compute the metrics from each class's numbers of true positives, chosen and positives (C, 3)."""
    hits, num_chosen, num_positive = counts.double().unbind(1)
    precision, recall = (
        float(hits.sum() / num_chosen.sum().clamp_min(1)),
        float(hits.sum() / num_positive.sum().clamp_min(1)),
    )
    per_class = (
        hits / num_chosen.clamp_min(1),
        hits / num_positive.clamp_min(1),
        2 * hits / (num_chosen + num_positive).clamp_min(1),
    )
    class_precision, class_recall, class_f1 = (
        _mean_over_classes(values, num_positive, absent_classes) for values in per_class
    )
    values = {
        "CP": class_precision,
        "CR": class_recall,
        "CF1": class_f1,
        "CF1_harm": _harmonic_mean(class_precision, class_recall),
        "OP": precision,
        "OR": recall,
        "OF1": _harmonic_mean(precision, recall),
    }
    return {name: 100 * value for name, value in values.items()}


def _count(chosen: Tensor, labels: Tensor) -> Tensor:
    """Count each class's true positives, chosen entries and positives (C, 3)."""
    return torch.stack([(chosen & labels).sum(0), chosen.sum(0), labels.sum(0)], 1)


def _mean_over_classes(values: Tensor, num_positive: Tensor, absent_classes: AbsentClasses) -> float:
    present = num_positive > 0
    if absent_classes == "zero":
        return float(values.mean())
    return float(values[present].mean()) if bool(present.any()) else 0.0


def _harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def _average_precision(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Compute average precision from the parts (n, C) of a split, some classes at a time."""
    num, num_classes = sum(map(len, scores)), scores[0].shape[1]
    width = max(1, _BLOCK // max(num, 1))
    found = []
    for start in range(0, num_classes, width):
        columns = (torch.cat([part[:, start : start + width].cpu() for part in parts]) for parts in (scores, labels))
        found.append(_rank(*columns))
    return torch.cat(found)


def _rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the average precision (c,) of some classes (N, c).

    Each entry becomes one integer, made of its class (bits 33 and up), its score (bits 1-32) and its label (bit 0), so
    that a single sort puts labels in the order of scores, without indices.
    """
    num, num_classes = scores.shape
    keys = _order_of(np.ascontiguousarray(scores.T.float().numpy()))
    keys <<= 1
    keys |= labels.T.numpy()
    keys |= np.arange(num_classes, dtype=np.int64)[:, None] << 33
    # Each row is sorted by itself. With the class in the highest bits, the rows in a line are sorted too, which
    # searchsorted needs.
    keys.sort(axis=1)
    ranked = keys.reshape(-1)
    hits = ranked[(ranked & 1) == 1]
    owner = hits >> 33
    # Scores ascend within a class. ``hits - 1`` is a hit's key with label 0, so the search finds the first entry of the
    # same score, and all entries from there on count for this hit: tied scores share one threshold.
    num_at_least = (owner + 1) * num - np.searchsorted(ranked, hits - 1)
    num_positive = np.bincount(owner, minlength=num_classes)
    # The same among the hits alone: where the class's hits end, less the place of the first hit of the same score.
    hits_at_least = num_positive.cumsum()[owner] - np.searchsorted(hits, hits)
    precision = np.bincount(owner, weights=hits_at_least / num_at_least, minlength=num_classes)
    return torch.from_numpy(precision / num_positive.clip(1))


def _order_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return integers in [0, 2^32) that sort like the given single-precision numbers and tie where they tie."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 turns -0.0 into 0.0
    # IEEE bits sort like integers except that those of negative numbers run backwards: flip all but the sign.
    order: NDArray[np.int64] = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    order += 2**31
    return order
