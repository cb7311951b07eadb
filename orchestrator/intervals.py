"""Intervals over training seeds, and checks of the figures that statistics are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval for the mean over seeds: ``mean -+ t s / sqrt(n)``.

    Not a bootstrap: over 3, 5 and 10 seeds a percentile bootstrap covers 75, 84 and 89 % where 95 % is claimed.

    Raises:
        ValueError: There are fewer than two values, one is not finite, or the level is not between 0 and 1.
    """
    known = require_finite(values, "values", least=2)
    require_level(level)
    quantile = float(special.stdtrit(known.size - 1, (1 + level) / 2))
    mean, half = float(known.mean()), quantile * float(known.std(ddof=1)) / math.sqrt(known.size)
    return mean - half, mean + half


def require_finite(values: Sequence[float], name: str, least: int = 1) -> Floats:
    """Return values as an array.

    Raises:
        ValueError: There are fewer than ``least``, or one is not a finite number.
    """
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or found.size < least:
        raise ValueError(f"{name} must have at least {least} value{'s' * (least > 1)}, but got {found.size}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers, but got {', '.join(map(str, found))[:80]}")
    return found


def require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but got {level}")
