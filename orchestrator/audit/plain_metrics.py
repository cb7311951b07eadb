"""Compute metrics a second time, as plainly as their definitions read, to check what :mod:`training.metrics` computed.

It shares no code with that module: NumPy in double precision instead of PyTorch, one class at a time, sorted scores
instead of packed integers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.metric_names import VAL_COVERING_RATE, VAL_ESTIMATED_ACCURACY

Logits = NDArray[np.float32]
Labels = NDArray[np.bool_]


def plain_metrics(split: str, logits: Logits, true: Labels | None, observed: Labels) -> dict[str, float]:
    """Return every metric in percent, under the names that :func:`training.metrics.compute_metrics` gives them.

    Args:
        split: ``val`` or ``test``.
        logits: (N, C).
        true: (N, C), or None if unknown.
        observed: (N, C).
    """
    found = {} if true is None else {f"{split}/{name}": value for name, value in _on(logits, true).items()}
    return found | {f"{split}/observed_{name}": value for name, value in _on(logits, observed).items()}


def plain_criteria(logits: Logits, observed: Labels) -> dict[str, float]:
    """Return the criteria that need observed labels alone, under the names that :mod:`training.criteria` gives them."""
    probs = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
    risks = [_risk(probs[:, label], observed[:, label]) for label in range(observed.shape[1])]
    most = max(1, min(3, observed.shape[1] - 1))
    covered = [
        np.mean([(row >= row[label]).sum() <= most for label in np.nonzero(known)[0]])
        for row, known in zip(logits, observed, strict=True)
        if known.any()
    ]
    rate = float(np.mean(covered)) if covered else 0.0
    return {VAL_COVERING_RATE: 100 * rate, VAL_ESTIMATED_ACCURACY: 100 * (1 - float(np.mean(risks)))}


def _risk(probs: NDArray[np.float64], observed: Labels) -> float:
    """Return the risk of a class under the absolute loss, from its observed positives and CRISP's prior."""
    if not observed.any():
        return float(probs.mean())
    num_all, num_observed = len(probs), int(observed.sum())
    slack = 1.01 * (math.sqrt(math.log(400) / (2 * num_all)) + math.sqrt(math.log(400) / (2 * num_observed)))
    best, prior = math.inf, 0.0
    for threshold in np.sort(probs[observed]):
        share, own = float((probs >= threshold).mean()), float((probs[observed] >= threshold).mean())
        if (share + slack) / own < best:
            best, prior = (share + slack) / own, share / own
    prior = min(prior, 1.0)
    return 2 * prior * float((1 - probs[observed]).mean()) + float(probs.mean()) - prior


def _on(logits: Logits, labels: Labels) -> dict[str, float]:
    chosen = 1 / (1 + np.exp(-np.clip(logits, -80, 80))) > np.float32(0.5)
    per_class = [_of_class(chosen[:, label], labels[:, label]) for label in range(labels.shape[1])]
    precision, recall, f1 = (float(np.mean(values)) for values in zip(*per_class, strict=True))
    pooled_precision, pooled_recall, _ = _of_class(chosen.ravel(), labels.ravel())
    ranked = [average_precision(logits[:, label], labels[:, label]) for label in range(labels.shape[1])]
    values = {
        "mAP": float(np.mean(ranked)),
        "CP": precision,
        "CR": recall,
        "CF1": f1,
        "CF1_harm": _harmonic(precision, recall),
        "OP": pooled_precision,
        "OR": pooled_recall,
        "OF1": _harmonic(pooled_precision, pooled_recall),
    }
    return {name: 100 * value for name, value in values.items()}


def average_precision(scores: NDArray[np.float32], labels: Labels) -> float:
    """Return the sum over thresholds of the gain in recall times precision, where equal scores share a threshold."""
    if not labels.any():
        return 0.0
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order])
    ends = np.append(np.nonzero(np.diff(ranked))[0], len(ranked) - 1)
    recall, precision = hits[ends] / labels.sum(), hits[ends] / (ends + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _of_class(chosen: Labels, labels: Labels) -> tuple[float, float, float]:
    hits, num_chosen, num_positive = int((chosen & labels).sum()), int(chosen.sum()), int(labels.sum())
    f1 = 2 * hits / (num_chosen + num_positive) if num_chosen + num_positive else 0.0
    return hits / max(1, num_chosen), hits / max(1, num_positive), f1


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
