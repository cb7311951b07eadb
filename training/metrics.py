"""Metric names and the metrics of multi-label classification; scores are percent, 0-100.

mAP is the mean over classes of non-interpolated average precision, equal to scikit-learn's, ties included. CP, CR and
CF1 are means over classes of per-class precision, recall and F1 (the definition that fits IGNORE's supplement, Table
2); CF1_harm is the harmonic mean of CP and CR that other papers call CF1; OP, OR and OF1 pool all entries. A class
without a true positive has precision, recall and F1 of 0. A class without any positive label counts 0 in the means over
classes, as in the SPML literature, or is left out of them.

The same metrics are computed on the observed labels, named ``split/observed_...``: what is had where nobody knows the
true ones. There a precision counts every unobserved positive as an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

# torch is imported where it is used: the scheduler, the tracker and the command line need the names alone.
EPOCH = "epoch"

TRAIN_LOSS = "train/loss"
TRAIN_LR = "train/lr"
TRAIN_REJECTION_PRECISION = "train/rejection_precision"
TRAIN_REJECTION_RECALL = "train/rejection_recall"
TRAIN_REJECTION_LIFT = "train/rejection_lift"
TRAIN_REJECTED_FRAC = "train/rejected_frac"
TRAIN_GAP_THRESHOLD = "train/gap_threshold"
TRAIN_AVERAGE_LOGIT_THRESHOLD = "train/average_logit_threshold"
TRAIN_MASK_KEPT_FRAC = "train/mask_kept_frac"
TRAIN_EMPTY_MASK_FRAC = "train/empty_mask_frac"
TRAIN_PSEUDO_LABELLED_FRAC = "train/pseudo_labelled_frac"
TRAIN_CLASS_PRIOR = "train/class_prior"
# 1 in the last epoch of a run that a rule ended before its full length (training.early_stopping); in no other epoch.
TRAIN_STOPPED = "train/stopped"

VAL_MAP = "val/mAP"
VAL_OBSERVED_MAP = "val/observed_mAP"
# Of class activation maps on a fixed part of val, where boxes are known (training.models.cam_quality).
VAL_POINTING_HIT_RATE = "val/pointing_hit_rate"
VAL_CENTRE_HIT_RATE = "val/centre_hit_rate"
VAL_CAM_IOU = "val/cam_iou"
# By how many percentage points averaged weights are better than trained ones, by what chooses the epoch
# (training.weight_average).
VAL_AVERAGE_GAIN = "val/average_gain"

TIME_EPOCH_S = "time/epoch_s"
TIME_DATA_S = "time/data_s"
TIME_TRAIN_S = "time/train_s"
TIME_EVAL_S = "time/eval_s"
TIME_CHECKPOINT_S = "time/checkpoint_s"

AbsentClasses = Literal["zero", "skip"]
"""What a class without any positive label is in the means over classes: a 0, or nothing."""

DEFAULT_THRESHOLD = 0.5
_BLOCK = 2**20
"""Entries that are ranked at a time: what ranking takes beside scores and labels, some 40 MiB, does not grow with the
split.
"""


class MetricAccumulator:
    """Takes the logits and labels of a split batch by batch, and computes its metrics from all of them.

    Average precision is a matter of ranks, so every score is kept: in single precision, with its labels 6 bytes an
    entry, 19 MB at COCO's test size (40,137 x 80). It stays on the device until it is computed from: taking in what is
    there waits for nothing.

    Args:
        num_classes: C.
        has_true: Whether true labels are known; without them only the metrics on observed labels are had.
        device: Where logits come from; by default the CPU.
    """

    def __init__(self, num_classes: int, has_true: bool, device: torch.device | None = None) -> None:
        import torch

        # An empty part each, so that a rank that was given nothing has something to gather.
        nothing = torch.zeros(0, num_classes, dtype=torch.bool, device=device)
        self._device = nothing.device
        self._logits, self._observed = [nothing.float()], [nothing]
        self._true = [nothing] if has_true else None

    def update(self, logits: Tensor, true: Tensor | None, observed: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, C); doubles are rounded to single precision.
            true: bool (B, C), or None where there are none.
            observed: bool (B, C).
        """
        assert logits.shape == observed.shape
        assert (true is None) == (self._true is None)
        self._logits.append(logits.detach().float().to(self._device))
        self._observed.append(observed.to(self._device))
        if self._true is not None and true is not None:
            self._true.append(true.to(self._device))

    def gather(self, gather_rows: Callable[[Tensor], Tensor]) -> None:
        """Take in what all ranks have; every rank must call it, and has the whole split afterwards. Order changes no
        metric.

        Args:
            gather_rows: Rows of this rank -> rows of all ranks: :func:`training.distributed.gather_rows`.
        """
        self._logits, self._observed = _gathered(self._logits, gather_rows), _gathered(self._observed, gather_rows)
        if self._true is not None:
            self._true = _gathered(self._true, gather_rows)

    def compute(
        self, split: str, threshold: float = DEFAULT_THRESHOLD, absent_classes: AbsentClasses = "zero"
    ) -> dict[str, float]:
        """Compute every metric: ``split/name`` on true labels, ``split/observed_name`` on observed ones, in percent.

        Args:
            split: ``val`` or ``test``.
            threshold: In 0-1; a probability above it is a positive. The authors of EM recommend 0.75 for models trained
                with it.
            absent_classes: What a class without any positive is in the means over classes.
        """
        metrics: dict[str, float] = {}
        for prefix, labels in (("", self._true), ("observed_", self._observed)):
            if labels is not None:
                values = self._metrics_on(labels, threshold, absent_classes)
                metrics |= {f"{split}/{prefix}{name}": value for name, value in values.items()}
        return metrics

    def _metrics_on(self, labels: list[Tensor], threshold: float, absent_classes: AbsentClasses) -> dict[str, float]:
        import torch

        # A part at a time, where it lies.
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
    """Compute every metric of a split whose logits (N, C) are at hand; see :class:`MetricAccumulator`."""
    accumulator = MetricAccumulator(logits.shape[1], has_true=true is not None)
    accumulator.update(logits, true, observed)
    return accumulator.compute(split, threshold, absent_classes)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute each class's average precision, sum over thresholds of (R_k - R_{k-1}) P_k, with tied scores one
    threshold.

    Args:
        scores: (N, C), higher is likelier; doubles are rounded to single precision.
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
        absent_classes: What a class without any positive is in CP, CR and CF1.
    """
    return _threshold_metrics(_count(probs > threshold, labels), absent_classes)


def _all_metrics(ap: Tensor, counts: Tensor, absent_classes: AbsentClasses) -> dict[str, float]:
    mean = _mean_over_classes(ap, counts[:, 2], absent_classes)
    return {"mAP": 100 * mean} | _threshold_metrics(counts, absent_classes)


def _threshold_metrics(counts: Tensor, absent_classes: AbsentClasses) -> dict[str, float]:
    """Compute them from each class's true positives, chosen and positives (C, 3)."""
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
    """Count each class's true positives, chosen and positives (C, 3)."""
    import torch

    return torch.stack([(chosen & labels).sum(0), chosen.sum(0), labels.sum(0)], 1)


def _mean_over_classes(values: Tensor, num_positive: Tensor, absent_classes: AbsentClasses) -> float:
    present = num_positive > 0
    if absent_classes == "zero":
        return float(values.mean())
    return float(values[present].mean()) if bool(present.any()) else 0.0


def _harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def _gathered(parts: list[Tensor], gather_rows: Callable[[Tensor], Tensor]) -> list[Tensor]:
    import torch

    return [gather_rows(torch.cat(parts))]


def _average_precision(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Compute it from the parts (n, C) of a split, some classes at a time."""
    import torch

    num, num_classes = sum(map(len, scores)), scores[0].shape[1]
    width = max(1, _BLOCK // max(num, 1))
    found = []
    for start in range(0, num_classes, width):
        columns = (torch.cat([part[:, start : start + width].cpu() for part in parts]) for parts in (scores, labels))
        found.append(_rank(*columns))
    return torch.cat(found)


def _rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the average precision of some classes (N, c) by sorting one integer an entry: its class, then its score,
    then its label.
    """
    import numpy as np
    import torch

    num, num_classes = scores.shape
    keys = _order_of(np.ascontiguousarray(scores.T.float().numpy()))
    keys <<= 1
    keys |= labels.T.numpy()
    keys |= np.arange(num_classes, dtype=np.int64)[:, None] << 33
    keys.sort(axis=1)
    ranked = keys.reshape(-1)
    hits = ranked[(ranked & 1) == 1]
    owner = hits >> 33
    # Of the classes' ascending ranks: a hit counts with all entries from the first of its score on, whose label may be
    # 0.
    num_at_least = (owner + 1) * num - np.searchsorted(ranked, hits - 1)
    num_positive = np.bincount(owner, minlength=num_classes)
    hits_at_least = num_positive.cumsum()[owner] - np.searchsorted(hits, hits)
    precision = np.bincount(owner, weights=hits_at_least / num_at_least, minlength=num_classes)
    return torch.from_numpy(precision / num_positive.clip(1))


def _order_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return integers in 0 - 2^32 in the order of single-precision numbers; equal where they are equal."""
    import numpy as np

    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    # The bits of negative numbers fall while the numbers rise.
    order: NDArray[np.int64] = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    order += 2**31
    return order
