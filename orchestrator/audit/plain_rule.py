"""Compute what the rule of a promotion computes a second time, as plainly as ``docs/results.md`` describes it.

It shares no code with :mod:`orchestrator.promotion.rule` and :mod:`orchestrator.trials.race_blocks`, but for the
constant of Pocock, which has tables of its own to be tested against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from scipy import stats

from orchestrator.trials.racing import pocock_level

_FIRST_LOOK = 3
_LEVEL = 0.05
_LEAST_RATIO = 0.3
_ASSUMED_RATIO = 0.5
_LEAST_DIFFERENCES = 3


def plain_noise(
    replicates: Sequence[Sequence[float]], scores: Sequence[float], num_trials: int | None
) -> tuple[float, float, float | None]:
    """Return the deviations between configurations and between seeds, and the mean of all configurations.

    Args:
        replicates: Per configuration, scores of further runs.
        scores: Of the search, one per configuration.
        num_trials: How many configurations these are the best of, under ASHA; None if they are all.
    """
    several = [group for group in replicates if len(group) > 1]
    num_differences = sum(len(group) - 1 for group in several)
    spread = scores if len(scores) > 1 else [*scores, *scores]
    mean, total = (None, variance(spread)) if num_trials in (None, len(spread)) else _of_best(spread, num_trials or 0)
    if num_differences < _LEAST_DIFFERENCES:
        seeds = total * _ASSUMED_RATIO**2 / (1 + _ASSUMED_RATIO**2)
        return math.sqrt(total - seeds), math.sqrt(seeds), mean
    seeds = sum(variance(group) * (len(group) - 1) for group in several) / num_differences
    configs = 0.0 if len(scores) < 2 else max(total - seeds, _LEAST_RATIO**2 * seeds)
    return math.sqrt(configs), math.sqrt(seeds), mean


def _of_best(scores: Sequence[float], num_trials: int) -> tuple[float, float]:
    """Return mean and variance of normal scores of which the best are known, by regression on Blom's scores."""
    places = range(1, len(scores) + 1)
    expected = [stats.norm.ppf((num_trials - place + 0.625) / (num_trials + 0.25)) for place in places]
    line = stats.linregress(expected, sorted(scores, reverse=True))
    return float(line.intercept), float(line.slope) ** 2


def plain_posterior(
    observed: Mapping[int, Sequence[float]], config_sd: float, seed_sd: float, mean: float | None
) -> dict[int, float]:
    """Return ``mu + w (mean - mu)`` per configuration, with ``w = s_cfg^2 / (s_cfg^2 + s_seed^2 / n)``."""
    means = {key: fmean(scores) for key, scores in observed.items()}
    spread = {key: config_sd**2 + seed_sd**2 / len(scores) for key, scores in observed.items()}
    if mean is None:
        is_exact = min(spread.values()) == 0
        known = {key: 1.0 if is_exact else 1 / value for key, value in spread.items()}
        mean = sum(known[key] * means[key] for key in means) / sum(known.values())
    weights = {key: config_sd**2 / value if value > 0 else 1.0 for key, value in spread.items()}
    return {key: mean + weights[key] * (means[key] - mean) for key in means}


def plain_race(runs: Mapping[int, Sequence[float | None]], num_blocks: int) -> tuple[set[int], list[tuple[int, int]]]:
    """Follow a race block by block.

    Args:
        runs: Candidate -> its score in each block; None is a run that failed. A list that is too short lacks runs.
        num_blocks: Blocks of the whole race.

    Returns:
        Who is left, and (candidate, block) of every run that the race needed and that is missing.
    """
    left = set(runs)
    level = pocock_level(max(1, num_blocks - _FIRST_LOOK + 1), _LEVEL)
    for block in range(num_blocks):
        if len(left) < 2 and len(runs) > 1:
            break
        missing = [(candidate, block) for candidate in sorted(left) if len(runs[candidate]) <= block]
        if missing:
            return left, missing
        left = {candidate for candidate in left if runs[candidate][block] is not None}
        if block + 1 >= _FIRST_LOOK and left:
            left = _keep({candidate: _up_to(runs[candidate], block) for candidate in left}, level)
    return left, []


def _up_to(scores: Sequence[float | None], block: int) -> list[float]:
    return [score for score in scores[: block + 1] if score is not None]


def _keep(scores: Mapping[int, Sequence[float]], level: float) -> set[int]:
    """Return the leader, and whoever is not significantly worse by a one-sided paired t test."""
    leader = max(scores, key=lambda candidate: (fmean(scores[candidate]), -candidate))
    return {each for each in scores if each == leader or _p_worse(scores[leader], scores[each]) > level}


def _p_worse(leader: Sequence[float], other: Sequence[float]) -> float:
    differences = [a - b for a, b in zip(leader, other, strict=True)]
    if max(differences) - min(differences) < 1e-9:  # no deviation to test against
        return 0.0 if differences[0] > 1e-9 else 1.0
    return float(stats.ttest_rel(leader, other, alternative="greater").pvalue)
