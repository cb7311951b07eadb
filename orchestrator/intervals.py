"""Intervals over training seeds and label draws, and checks of the figures that statistics are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval for the mean over seeds: ``mean -+ t s / sqrt(n)``.

    Not a bootstrap: over 3, 5 and 10 seeds a percentile bootstrap covers 75, 84 and 89 % where 95 % is claimed.

    Raises:
        ValueError: There are fewer than two values, one is not finite, or the level is not between 0 and 1.
    """
    from scipy import special  # takes a second, which who only lists a sweep does not need

    known = require_finite(values, "values", least=2)
    require_level(level)
    quantile = float(special.stdtrit(known.size - 1, (1 + level) / 2))
    mean, half = float(known.mean()), quantile * float(known.std(ddof=1)) / math.sqrt(known.size)
    return mean - half, mean + half


@dataclass(frozen=True)
class NestedMean:
    """The mean over groups of values, such as seeds on several label draws.

    Attributes:
        low, high: Its interval; None for a single group.
        group_sd: Standard deviation between groups, without the share of the values inside them; None if there is one
            group, or one value in each, as the two cannot be told apart then.
        value_sd: Standard deviation inside groups; None if there is one value in each.
    """

    mean: float
    low: float | None
    high: float | None
    group_sd: float | None
    value_sd: float | None


def nested_mean(groups: Sequence[Sequence[float]], level: float = 0.95) -> NestedMean:
    """Estimate the mean of a one-way layout with random effects: groups, and values inside each.

    The mean is that of the group means ``m_i``, with Student's interval over them, ``D - 1`` degrees of freedom:
    ``mean -+ t s_m / sqrt(D)``. With equally many values in each group this is exact whatever the two deviations are,
    for ``s_m^2 / D`` is the mean square between groups over the number of values (Searle, Casella and McCulloch,
    "Variance Components", 1992, chapter 3). An interval over all values would take a group's values for independent
    news about the other groups. The deviations are those of the analysis of variance: inside, pooled over groups;
    between, ``sqrt(s_m^2 - s_e^2 mean(1 / n_i))``, or 0 if that is negative.

    Raises:
        ValueError: There is no group, one is empty or has a value that is not finite, or the level is not between 0 and
            1.
    """
    require_level(level)
    known = [require_finite(group, "groups") for group in groups]
    means = [float(group.mean()) for group in known]
    mean = float(require_finite(means, "groups").mean())
    num_free = sum(group.size - 1 for group in known)
    value_var = sum(float(((group - group.mean()) ** 2).sum()) for group in known) / num_free if num_free else None
    value_sd = None if value_var is None else math.sqrt(value_var)
    if len(known) < 2:
        return NestedMean(mean, None, None, None, value_sd)
    low, high = mean_interval(means, level)
    inside = (value_var or 0.0) * float(np.mean([1 / group.size for group in known]))
    between = max(0.0, float(np.var(means, ddof=1)) - inside)
    return NestedMean(mean, low, high, None if value_var is None else math.sqrt(between), value_sd)


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
