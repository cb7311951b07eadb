"""The rule of a promotion as pure functions: noise, shrinkage, how much to run again, the race, and intervals.

The model is a one-way layout with random effects. A configuration has a true quality, normally distributed over the
configurations of a search with deviation ``config_sd``; a run of it scores its quality plus noise of deviation
``seed_sd``. Scores may have any unit, percent as a rule; higher is better. ``docs/results.md`` explains the rule with a
worked example, ``benchmarks/results/selection.md`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy import optimize, special

from orchestrator.intervals import Floats, mean_interval, require_finite, require_level
from orchestrator.trials.racing import race

__all__ = [
    "Noise",
    "Reruns",
    "choose_reruns",
    "estimate_noise",
    "mean_interval",
    "race",
    "shrunken_means",
    "winner_interval",
]

# Share of the error that an interval for a winner spends on not being longer than a simultaneous one. A tenth, as
# Andrews, Kitagawa and McCloskey recommend.
_HYBRID_SHARE = 0.1
# Fixed draws, so that equal scores give equal answers: few to find the choices that may be best, more to compare them.
_FEW, _NUM_DRAWS = 128, 2048
_NUM_COMPARED = 6
# Gain in config_sd below which re-runs are not worth it: about the error of the simulated expectation.
_WORTH = 0.004
_LEAST_RATIO = 0.3
_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)


@dataclass(frozen=True)
class Noise:
    """How much scores differ, and why.

    Attributes:
        config_sd: Standard deviation of the true quality between configurations.
        seed_sd: Standard deviation between runs of one configuration.
        mean: Mean quality of all configurations, if the scores at hand are a selected part of them; None if their own
            mean tells it.
        seed_df: Degrees of freedom behind ``seed_sd``; infinite if it is known.
    """

    config_sd: float
    seed_sd: float
    mean: float | None = None
    seed_df: float = math.inf

    def __post_init__(self) -> None:
        """Check the figures.

        Raises:
            ValueError: A deviation is negative or not finite.
        """
        for name in ("config_sd", "seed_sd"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, but got {value}")
        if self.mean is not None and not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, but got {self.mean}")
        if not self.seed_df > 0:
            raise ValueError(f"seed_df must be above 0, but got {self.seed_df}")

    def weight(self, num_runs: int = 1) -> float:
        """Return how much of a mean's distance to the mean of all is kept: ``s_cfg^2 / (s_cfg^2 + s_seed^2 / n)``."""
        between, within = self.config_sd**2, self.seed_sd**2 / num_runs
        return 1.0 if within == 0 else between / (between + within)


@dataclass(frozen=True)
class Reruns:
    """Run the best ``k`` configurations again, each with ``m`` further seeds; ``k = m = 0`` is none."""

    k: int
    m: int

    @property
    def num_runs(self) -> int:
        """Number of runs."""
        return self.k * self.m


def estimate_noise(
    replicates: Sequence[Sequence[float]],
    singles: Sequence[float],
    *,
    num_trials: int | None = None,
    selected: bool = False,
) -> Noise:
    """Estimate both deviations from runs of several configurations.

    ``seed_sd`` is the pooled deviation within ``replicates``. ``config_sd`` follows from the variance of the
    configurations' means, which exceeds that of their qualities by ``seed_sd^2`` times the mean of 1 / runs (analysis
    of variance with unweighted means). It is at least 0.3 ``seed_sd``: an estimate of 0 says that there were few runs,
    and would shrink all scores to the same, so that the choice would be arbitrary.

    Args:
        replicates: Per configuration, its scores with different seeds; one of a single score counts as a single.
        singles: The scores of configurations that ran once.
        num_trials: If the configurations are the best of so many, as under ASHA: how many. The mean and the deviation
            of all are then read from their place among the expected order statistics of so many normals (Blom).
        selected: Whether the replicates are further runs of configurations that were chosen by their score, and
            ``singles`` already has that score. They then tell ``seed_sd`` alone.

    Raises:
        ValueError: No configuration has two scores, there are fewer than two configurations, or a score is not finite.
    """
    groups = [require_finite(group, "replicates") for group in replicates]
    alone = require_finite(singles, "singles", least=0)
    num_free = sum(group.size - 1 for group in groups)
    if num_free < 1:
        raise ValueError("replicates must have at least two scores of one configuration, but no configuration has")
    seed_var = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / num_free
    counted = [] if selected else groups
    means = np.array([*(group.mean() for group in counted), *alone])
    if means.size < 2:
        raise ValueError(f"config_sd needs the scores of at least two configurations, but got {means.size}")
    inverse = float(np.mean([*(1 / group.size for group in counted), *np.ones(alone.size)]))
    mean = None
    if num_trials is None or num_trials == means.size:
        total_var = float(means.var(ddof=1))
    else:
        mean, total_sd = _fit_best(means, num_trials)
        total_var = total_sd**2
    config_var = max(total_var - seed_var * inverse, _LEAST_RATIO**2 * seed_var)
    return Noise(math.sqrt(config_var), math.sqrt(seed_var), mean, float(num_free))


def _fit_best(scores: Floats, num_trials: int) -> tuple[float, float]:
    """Return mean and deviation of normal scores of which only the best are known."""
    if num_trials < scores.size:
        raise ValueError(f"num_trials must be at least the {scores.size} scores there are, but got {num_trials}")
    ranks = np.arange(1, scores.size + 1)
    expected = special.ndtri((num_trials - ranks + 0.625) / (num_trials + 0.25))
    slope, intercept = np.polyfit(expected, np.sort(scores)[::-1], 1)
    return float(intercept), float(slope)


def choose_reruns(scores: Sequence[float], noise: Noise, budget_runs: int) -> Reruns:
    """Choose how many configurations to run again, and how often, for the highest expected quality of the final choice.

    What is left of the budget counts as further trials: random draws from the same configurations, which may then be
    among the ``k`` best. The final choice is the highest shrunken mean. Expectations are over the posterior, simulated
    with fixed draws.

    Args:
        scores: One score per configuration that has run.
        noise: Both deviations.
        budget_runs: Number of runs that can still be paid for.

    Returns:
        ``k`` and ``m`` with ``k * m <= budget_runs``; ``k = 0`` if all of it is better spent on further trials. ``k``
        is at most the number of scores.

    Raises:
        ValueError: There is no score, one is not finite, or the budget is negative.
    """
    known = require_finite(scores, "scores")
    if isinstance(budget_runs, bool) or budget_runs != int(budget_runs) or budget_runs < 0:
        raise ValueError(f"budget_runs must be a whole number of at least 0, but got {budget_runs}")
    budget = int(budget_runs)
    # Nothing can be told apart, or everything is told apart already.
    if budget == 0 or noise.config_sd == 0 or noise.seed_sd == 0:
        return Reruns(0, 0)
    weight = noise.weight()
    mean = float(known.mean()) if noise.mean is None else noise.mean
    # In units of config_sd: posterior means of the known configurations, best first.
    posterior = np.sort(weight * (known - mean) / noise.config_sd)[::-1]
    # One configuration alone needs no second opinion.
    choices = [] if known.size == 1 else [Reruns(k, m) for k in _COUNTS if k <= known.size for m in _COUNTS]
    choices = [choice for choice in choices if choice.num_runs <= budget]
    choices.sort(key=lambda choice: -_expect_best(posterior, choice, budget, weight, _FEW))
    best, least = Reruns(0, 0), _expect_best(posterior, Reruns(0, 0), budget, weight, _NUM_DRAWS) + _WORTH
    for choice in choices[:_NUM_COMPARED]:
        value = _expect_best(posterior, choice, budget, weight, _NUM_DRAWS)
        if value > least:
            best, least = choice, value
    return best


def _expect_best(posterior: Floats, reruns: Reruns, budget: int, weight: float, num_draws: int) -> float:
    """Return the expected highest posterior mean after further trials and re-runs, in units of config_sd.

    Args:
        posterior: Posterior means of the configurations so far, best first.
        reruns: What is run again.
        budget: Number of runs; what the re-runs leave of it are further trials.
        weight: :meth:`Noise.weight` of one run.
        num_draws: How many draws to average over.
    """
    k = reruns.k
    # Below the k + 1 best there is nobody whom a re-run could make the best.
    known = posterior[: k + 1]
    # Before its run is seen, the posterior mean of a further trial is normal with variance w.
    further = math.sqrt(weight) * _draw_best(budget - reruns.num_runs)[:num_draws, : k + 1]
    ranked = np.concatenate([np.broadcast_to(known, (num_draws, known.size)), further], axis=1)
    if k:
        ranked.sort(axis=1)
        ranked = ranked[:, ::-1][:, : k + 1].copy()
        # Posterior variance after one run, 1 - w, and by how much m further runs reduce it: the variance of their news.
        left, seed_var = 1 - weight, (1 - weight) / weight
        ranked[:, :k] += left / math.sqrt(left + seed_var / reruns.m) * _draw_news()[:num_draws, :k]
    return float(ranked.max(axis=1).mean())


@lru_cache(maxsize=256)
def _draw_best(num: int) -> Floats:
    """Return draws of the best of ``num`` standard normals, at most as many as any choice needs, best first."""
    drawn = _draw(0, num)
    return -np.sort(-drawn, axis=1)[:, : max(_COUNTS) + 1]


@cache
def _draw_news() -> Floats:
    return _draw(1, max(_COUNTS))


def _draw(seed: int, width: int) -> Floats:
    """Return standard normal draws; row by row, one is the negative of the other."""
    drawn = np.random.default_rng(seed).standard_normal((width, _NUM_DRAWS // 2)).T
    return np.stack([drawn, -drawn], axis=1).reshape(_NUM_DRAWS, width)


def shrunken_means(observations: Mapping[int, Sequence[float]], noise: Noise) -> dict[int, float]:
    """Return each configuration's posterior mean: ``mu + w (mean - mu)``, with ``w`` of :meth:`Noise.weight`.

    Unlike the highest mean, the highest posterior mean is not too high on average: it stays right whichever
    configuration is chosen by it. ``mu`` is ``noise.mean``, or else the mean of the configurations' means, weighted by
    the inverse of their variances ``s_cfg^2 + s_seed^2 / n``.

    Args:
        observations: Configuration -> the scores of its runs.
        noise: Both deviations.

    Raises:
        ValueError: There is no configuration, one has no score, or a score is not finite.
    """
    if not observations:
        raise ValueError("observations must have at least one configuration")
    scores = {key: require_finite(values, f"observations[{key}]") for key, values in observations.items()}
    means = np.array([values.mean() for values in scores.values()])
    counts = np.array([values.size for values in scores.values()])
    variances = noise.config_sd**2 + noise.seed_sd**2 / counts
    precisions = 1 / variances if variances.min() > 0 else np.ones(means.size)
    mean = float(np.average(means, weights=precisions)) if noise.mean is None else noise.mean
    return {
        key: float(mean + noise.weight(int(count)) * (value - mean))
        for key, value, count in zip(scores, means, counts, strict=True)
    }


def winner_interval(scores: Sequence[float], noise: Noise, level: float = 0.95) -> tuple[float, float]:
    """Return an interval for the true quality of the configuration with the best score, from the sweep alone.

    It covers with ``level`` (up to a hundredth of the rest) whatever the true qualities are: the hybrid interval of
    Andrews, Kitagawa and McCloskey ("Inference on Winners", Quarterly Journal of Economics 2024). Given that it won,
    the best score is a normal truncated below at the second best, which is inverted exactly; to keep the interval short
    where the two are close, a tenth of the error goes to staying inside the simultaneous interval over all scores.
    Zrnic and Fithian (arXiv 2411.18569) solve the same task; their interval covers more than it says.

    Args:
        scores: One score per configuration.
        noise: Only ``seed_sd`` matters; with few ``seed_df``, Student's t takes the place of the normal.
        level: Of the interval.

    Raises:
        ValueError: There is no score, one is not finite, or the level is not between 0 and 1.
    """
    known = np.sort(require_finite(scores, "scores"))[::-1]
    require_level(level)
    best, scale = float(known[0]), noise.seed_sd
    if scale == 0:
        return best, best
    # Equal scores leave no room to invert in; so little more changes no digit.
    gap = max(float(best - known[1]) / scale, 1e-6) if known.size > 1 else math.inf
    spent = _HYBRID_SHARE * (1 - level) if known.size > 1 else 0.0
    # Every score lies within so many deviations of its truth, but for the error that is spent on this.
    widest = _quantile(1 - (1 - (1 - spent) ** (1 / known.size)) / 2, noise.seed_df) if spent else math.inf
    tail = ((1 - level) - spent) / (1 - spent) / 2
    # By how much the best score is above its truth, in deviations: the larger, the lower the truth.
    return (
        best - scale * _invert(gap, widest, 1 - tail, noise.seed_df),
        best - scale * _invert(gap, widest, tail, noise.seed_df),
    )


def _invert(gap: float, widest: float, share: float, df: float) -> float:
    """Return the excess at which a share of the runs that would have won would have had a smaller one.

    Args:
        gap: Distance of the best score to the second, in deviations.
        widest: Limit of the excess, to both sides.
        share: Between 0 and 1.
        df: Degrees of freedom of the noise.
    """

    def exceed(excess: float) -> float:
        low, high = _tail(max(excess - gap, -widest), df), _tail(widest, df)
        # Upper tails keep their precision where both are tiny.
        return (low - _tail(excess, df)) / (low - high) - share if low > high else -share

    limit = widest if math.isfinite(widest) else 40.0
    return float(optimize.brentq(exceed, -limit, limit, xtol=1e-9))


def _tail(value: float, df: float) -> float:
    return float(special.ndtr(-value) if math.isinf(df) else special.stdtr(df, -value))


def _quantile(share: float, df: float) -> float:
    return float(special.ndtri(share) if math.isinf(df) else special.stdtrit(df, share))
