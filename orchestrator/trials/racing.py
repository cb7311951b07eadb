"""Race candidates over common seeds, and drop those that are significantly worse than the leader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy import optimize, special

from orchestrator.intervals import require_finite, require_level

FIRST_LOOK = 3
"""A race drops nobody before this many blocks: two differences say next to nothing about their deviation."""
RACE_LEVEL = 0.05


def race(blocks: Sequence[Mapping[int, float | None]], num_blocks: int, *, level: float = RACE_LEVEL) -> list[int]:
    """Return who is left of a race: the candidates that are not significantly worse than the leader.

    From the third block on, after each block, everybody is compared with the leader (the highest mean so far) over all
    blocks up to it, by a one-sided paired t test. The level of a single test is Pocock's, so that over all looks of the
    race a candidate that is as good as the leader is dropped with a probability of about ``level``.

    Args:
        blocks: One per seed, in order: candidate -> score; None is a failed run, which drops its candidate. The first
            has all candidates, later ones at least those that are left.
        num_blocks: How many blocks the race has when nobody is dropped; it decides the number of looks.
        level: Probability of dropping a candidate that is as good as the leader.

    Returns:
        The candidates that are left, in the order of the first block. At least the leader is, unless all have failed.

    Raises:
        ValueError: There is no block, more than ``num_blocks``, a score is missing or not finite, or the level is not
            between 0 and 1.
    """
    require_level(level)
    if not 1 <= len(blocks) <= num_blocks:
        raise ValueError(f"blocks must be from 1 to num_blocks={num_blocks}, but got {len(blocks)}")
    if not blocks[0]:
        raise ValueError("blocks must have at least one candidate")
    left = list(blocks[0])
    columns: dict[int, list[float]] = {candidate: [] for candidate in left}
    # Looks come after block 3, 4, ..., num_blocks; after the last one, a drop spares nothing but is part of the rule.
    nominal = pocock_level(max(1, num_blocks - FIRST_LOOK + 1), level)
    for index, block in enumerate(blocks):
        for candidate in left:
            if candidate not in block:
                raise ValueError(f"block {index} lacks candidate {candidate}, which is still in the race")
        left = [candidate for candidate in left if block[candidate] is not None]
        for candidate in left:
            columns[candidate].append(float(require_finite([block[candidate] or 0.0], f"block {index}")[0]))
        if left and index + 1 >= FIRST_LOOK:
            leader = max(left, key=lambda candidate: sum(columns[candidate]))
            left = [
                candidate
                for candidate in left
                if candidate == leader or paired_p(columns[leader], columns[candidate]) > nominal
            ]
    return left


def paired_p(better: Sequence[float], worse: Sequence[float]) -> float:
    """Return the one-sided p value of a paired t test that the first is better; 1 below two pairs."""
    differences = np.asarray(better, dtype=float) - np.asarray(worse, dtype=float)
    if differences.size < 2:
        return 1.0
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(differences.size)
    if error <= 1e-12 * max(1.0, abs(mean)):
        return 0.0 if mean > 1e-12 else 1.0
    return float(special.stdtr(differences.size - 1, -mean / error))


@cache
def pocock_level(num_looks: int, level: float = RACE_LEVEL) -> float:
    """Return the one-sided level of each of several looks at growing data that gives ``level`` over all of them.

    Pocock's constant boundary (Biometrika 1977), for equally spaced looks at a normal mean; its two-sided tables at
    twice the level differ by less than a thousandth.
    """
    if num_looks < 1:
        raise ValueError(f"num_looks must be at least 1, but got {num_looks}")
    require_level(level)
    if num_looks == 1:
        return level
    bound = optimize.brentq(lambda z: _cross(z, num_looks) - level, special.ndtri(1 - level), 8.0, xtol=1e-6)
    return float(special.ndtr(-bound))


def _cross(bound: float, num_looks: int) -> float:
    """Return the probability that sums of 1, 2, ... standard normals exceed ``bound`` times the root of their number.

    By the recursion of Armitage, McPherson and Rowe (1969): the density of the sums that have not crossed so far.
    """
    step = 0.05
    grid = np.arange(-12.0 - 2 * math.sqrt(num_looks), bound * math.sqrt(num_looks) + 1, step)
    kernel = np.exp(-((grid[:, None] - grid[None, :]) ** 2) / 2) / math.sqrt(2 * math.pi)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    crossed = float(special.ndtr(-bound))
    for look in range(1, num_looks):
        limit = bound * math.sqrt(look)
        # The last cell is cut where the boundary lies, so that the step adds no error of its own order.
        inside = np.clip((limit - grid) / step + 0.5, 0.0, 1.0) * density
        crossed += float(inside @ special.ndtr(grid - bound * math.sqrt(look + 1)) * step)
        density = kernel @ inside * step
    return crossed
