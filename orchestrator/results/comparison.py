"""Compare methods over common seeds: registered contrasts, ties, and the smallest difference that can be seen.

Pure functions of scores in percent; higher is better. ``docs/results.md`` has a worked example that they are tested on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from orchestrator.intervals import Floats, mean_interval, require_finite, require_level

ALPHA = 0.05
_POINTS = 2001
_TAIL = 1e-6


@dataclass(frozen=True)
class Difference:
    """A paired difference over common seeds.

    Attributes:
        mean: The first minus the second.
        low, high: Student's t interval for it.
        p: Two-sided, of the paired t test; 1 if all differences are 0.
        num: Number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    num: int


def compare_paired(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Difference:
    """Compare two methods, seed by seed: ``mean(d) -+ t s_d / sqrt(n)`` for the differences d.

    Args:
        first, second: Scores, those of one seed at one place.
        level: Of the interval.

    Raises:
        ValueError: They have different lengths, fewer than two values, or one that is not finite.
    """
    ours, theirs = require_finite(first, "first", least=2), require_finite(second, "second", least=2)
    if ours.size != theirs.size:
        raise ValueError(f"both need a score for every seed, but got {ours.size} and {theirs.size}")
    differences = ours - theirs
    low, high = mean_interval(list(differences), level)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(differences.size)
    if error == 0:
        return Difference(mean, low, high, 1.0 if mean == 0 else 0.0, differences.size)
    p = 2 * float(special.stdtr(differences.size - 1, -abs(mean) / error))
    return Difference(mean, low, high, p, differences.size)


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Return p values after Holm's correction, in their order: the smallest of m times m, the next times m - 1, ...

    One is significant if its corrected value is below the level; the chance of any false finding is then at most that.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        # No smaller than the one before, so that a larger p value is never called significant alone.
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def format_p(p: float) -> str:
    """Return a p value with three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def find_floor(num_seeds: int, num_comparisons: int = 1, alpha: float = ALPHA) -> float:
    """Return the smallest difference that can be significant, in deviations of the paired difference.

    ``t(1 - alpha / (2 m), n - 1) / sqrt(n)`` for the first step of Holm over m comparisons: 1.2 for one comparison
    with 5 seeds, 2.1 for five.

    Raises:
        ValueError: There are fewer than two seeds, or no comparison.
    """
    if num_seeds < 2 or num_comparisons < 1:
        raise ValueError(f"a floor needs two seeds and a comparison, but got {num_seeds} and {num_comparisons}")
    require_level(alpha)
    return float(special.stdtrit(num_seeds - 1, 1 - alpha / 2 / num_comparisons)) / math.sqrt(num_seeds)


def pool_difference_sd(scores: Mapping[str, Sequence[float]]) -> float | None:
    """Return the deviation of a paired difference, pooled over all pairs of methods; None without a pair."""
    variances = [
        float(np.var(np.asarray(scores[first]) - np.asarray(scores[second]), ddof=1))
        for first, second in combinations(scores, 2)
    ]
    return math.sqrt(sum(variances) / len(variances)) if variances else None


def group_ties(scores: Mapping[str, Sequence[float]], alpha: float = ALPHA) -> dict[str, int]:
    """Return method -> its group, from 1.

    The method with the highest mean leads the first group. All whose paired difference from it is not significant, with
    Holm's correction over all others, are tied with it; the best of the rest leads the next group.

    Args:
        scores: Method -> scores over common seeds.
        alpha: Level.
    """
    left = sorted(scores, key=lambda method: -float(np.mean(scores[method])))
    groups: dict[str, int] = {}
    number = 0
    while left:
        number += 1
        leader, others = left[0], left[1:]
        corrected = correct_holm([compare_paired(scores[leader], scores[other]).p for other in others])
        tied = [leader, *(other for other, p in zip(others, corrected, strict=True) if p >= alpha)]
        groups |= dict.fromkeys(tied, number)
        left = [method for method in left if method not in tied]
    return groups


def find_best_probs(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return method -> probability that its true mean is the highest.

    With a flat prior, a true mean is distributed as ``mean + s / sqrt(n) t(n - 1)``, independently of the others; the
    probability is the integral of each density times the distribution functions of all others. Pairing is not used.

    Raises:
        ValueError: A method has fewer than two scores, or one that is not finite.
    """
    known = {method: require_finite(values, method, least=2) for method, values in scores.items()}
    if len(known) < 2:
        return dict.fromkeys(known, 1.0)
    shapes = [(float(values.mean()), _error(values), values.size - 1) for values in known.values()]
    density, below = _tabulate(shapes)
    shares = [
        float(np.trapezoid(density[index] * np.prod(np.delete(below, index, axis=0), axis=0), _grid(shapes)))
        for index in range(len(shapes))
    ]
    total = sum(shares)  # 1 up to the error of the sum
    return {method: share / total for method, share in zip(known, shares, strict=True)}


def _error(values: Floats) -> float:
    # Equal scores have a deviation of 0, whose density cannot be drawn: narrow instead.
    return max(float(values.std(ddof=1)) / math.sqrt(values.size), _TAIL)


def _grid(shapes: Sequence[tuple[float, float, int]]) -> Floats:
    # The quantiles of every distribution, so that narrow ones have enough points too.
    levels = np.concatenate([[_TAIL], np.linspace(0.001, 0.999, _POINTS // 5), [1 - _TAIL]])
    return np.unique(np.concatenate([mean + error * special.stdtrit(df, levels) for mean, error, df in shapes]))


def _tabulate(shapes: Sequence[tuple[float, float, int]]) -> tuple[Floats, Floats]:
    """Return density and distribution function of each true mean over a common grid."""
    grid = _grid(shapes)
    density = np.stack([_density((grid - mean) / error, df) / error for mean, error, df in shapes])
    below = np.stack([special.stdtr(df, (grid - mean) / error) for mean, error, df in shapes])
    return density, below


def _density(values: Floats, df: int) -> Floats:
    """Return the density of Student's t; scipy.stats has it too, but takes half a second to import."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    found: Floats = scale * (1 + values**2 / df) ** (-(df + 1) / 2)
    return found
