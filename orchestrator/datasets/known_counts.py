"""Count what is known of the labels of a split: positives, negatives, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.counts import counted

Matrix = NDArray[np.bool_]


@dataclass(frozen=True)
class KnownCounts:
    """What is known of the labels of a split.

    Attributes:
        positives, negatives: Labels that are observed, and that are known to be negative.
        unknown: All others.
    """

    positives: int
    negatives: int
    unknown: int

    def describe(self) -> str:
        """Return the counts in words."""
        return (
            f"{counted(self.positives, 'observed positive')}, {counted(self.negatives, 'known negative')}, "
            f"{self.unknown:,} unknown"
        )


def count_known(observed: Matrix, negative: Matrix | None) -> KnownCounts:
    """Count what is known of labels.

    Args:
        observed: bool (N, C), the observed positives.
        negative: bool (N, C), the labels that are known to be negative, or None.
    """
    positives, negatives = int(observed.sum()), 0 if negative is None else int(negative.sum())
    return KnownCounts(positives, negatives, observed.size - positives - negatives)
