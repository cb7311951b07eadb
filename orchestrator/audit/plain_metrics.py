"""Compute metrics a second time, as plainly as their definitions read, to check what :mod:`training.metrics` computed.

It shares no code with that module: NumPy in double precision instead of PyTorch, one class at a time, sorted scores
instead of packed integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
