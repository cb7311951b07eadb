"""Count how well a method finds false negatives, where true labels are known; nothing that is trained reads this."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from training.metric_names import (
    TRAIN_REJECTED_FRAC,
    TRAIN_REJECTION_LIFT,
    TRAIN_REJECTION_PRECISION,
    TRAIN_REJECTION_RECALL,
)


def count_found(found: Tensor, unknown: Tensor, true: Tensor | None) -> dict[str, Tensor]:
    """Return the sums of a step that :func:`found_metrics` needs.

    Args:
        found: bool (B, C), the unobserved labels that a method rejects or treats as positive.
        unknown: bool (B, C), the labels that are neither observed nor known to be negative.
        true: (B, C) of 0 and 1, or None.
    """
    sums = {"rejected": found.sum(), "unobserved": unknown.sum()}
    if true is not None:
        false_negative = (true > 0) & unknown
        sums["false_negatives"] = false_negative.sum()
        sums["rejected_false_negatives"] = (found & false_negative).sum()
    return sums


def found_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the share of unobserved labels found; precision, recall and lift too, where they are defined.

    Lift is precision over the share of false negatives among unobserved labels, which random rejection would achieve.
    """
    if "rejected" not in sums:
        return {}
    metrics = {TRAIN_REJECTED_FRAC: sums["rejected"] / max(sums["unobserved"], 1)}
    # Without any to find, a recall of 0 would look like a failure of the method.
    if not sums.get("false_negatives"):
        return metrics
    metrics[TRAIN_REJECTION_RECALL] = sums["rejected_false_negatives"] / sums["false_negatives"]
    if not sums["rejected"]:
        return metrics
    precision = sums["rejected_false_negatives"] / sums["rejected"]
    base_rate = sums["false_negatives"] / sums["unobserved"]
    return metrics | {TRAIN_REJECTION_PRECISION: precision, TRAIN_REJECTION_LIFT: precision / base_rate}
