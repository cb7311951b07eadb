"""The statistics of a report. Pure functions of numbers; each says what its interval covers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import cho_solve

from orchestrator.promotion import rule

Floats = NDArray[np.float64]
_SEED = 0
_MOST_ROWS = 400
"""More trials than that change no conclusion, and cost minutes."""


@dataclass(frozen=True)
class Interval:
    """A figure with an interval that is given with it."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean over seeds with Student's interval; with one value the interval is infinite.

    At 3 to 10 seeds a bootstrap covers 75 to 89 % where 95 % is claimed; Student's t covers what it claims.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    return Interval(mean, *rule.mean_interval(values, level))


def deviation_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the deviation of values from a normal distribution, with its chi-square interval.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"a deviation needs at least two values, but got {len(values)}")
    deviation, free = float(np.std(values, ddof=1)), len(values) - 1
    low, high = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], free)
    return Interval(deviation, deviation * math.sqrt(free / low), deviation * math.sqrt(free / high))


def least_difference(deviation: float, num_seeds: int, level: float = 0.95) -> float:
    """Return the smallest difference of two single runs that is more than seed noise.

    Args:
        deviation: Between seeds, in points.
        num_seeds: How many seeds it was estimated from.
    """
    return float(stats.t.ppf((1 + level) / 2, num_seeds - 1)) * math.sqrt(2) * deviation


def winners_curse(noise: float, spread: float, num_trials: int) -> float:
    """Return by how many points the best of some scores is expected to be too high.

    With r = noise / true deviation: r^2 / sqrt(1 + r^2) true deviations, times the expected maximum of n normals.

    Args:
        noise: Deviation between seeds, in points.
        spread: Deviation of the scores, which contains the noise.
        num_trials: How many scores the best was chosen from.
    """
    if spread <= 0 or num_trials < 2:
        return 0.0
    # In units of points: noise^2 / spread, since spread^2 = true^2 + noise^2. No more than all of it can be noise.
    return min(noise, spread) ** 2 / spread * _expected_maximum(num_trials)


def _expected_maximum(count: int) -> float:
    # Blom's approximation of the expected largest of n normals; within 0.01 from n = 2 on.
    return float(stats.norm.ppf((count - 0.375) / (count + 0.25)))


@dataclass(frozen=True)
class BestOf:
    """What the best of n random trials scores; ``low`` and ``high`` are its 10 % and 90 % quantiles."""

    num_trials: NDArray[np.int64]
    mean: Floats
    low: Floats
    high: Floats


def expected_best(scores: Sequence[float], num_points: int = 100) -> BestOf:
    """Return the expected best of n of these trials, drawn at random with replacement.

    sum_i v_(i) [(i/B)^n - ((i-1)/B)^n] over the sorted scores v of B trials: a budget curve from any search.

    Args:
        scores: One per trial.
        num_points: At most for how many n, evenly from 1 to B.
    """
    values, count = np.sort(np.asarray(scores, float)), len(scores)
    tries = np.unique(np.linspace(1, count, min(count, num_points)).round().astype(np.int64))
    below = (np.arange(count + 1) / count)[None, :] ** tries[:, None]  # P(best is among the i lowest)
    low, high = (values[np.clip((below[:, 1:] < level).sum(1), 0, count - 1)] for level in (0.1, 0.9))
    return BestOf(tries, np.diff(below, axis=1) @ values, low, high)


@dataclass(frozen=True)
class Agreement:
    """How an early score agrees with the final one.

    Attributes:
        correlation: Spearman's, with a 95 % interval (Fisher's z) over trials.
        recall: Share of the best ``num_top`` that are among the first third at the early epoch.
        num_trials: How many trials have both.
    """

    correlation: Interval
    recall: float
    num_trials: int


def agreement(early: Sequence[float], final: Sequence[float], num_top: int = 3, kept: float = 1 / 3) -> Agreement:
    """Compare the order of trials at an early epoch with the final one."""
    count = len(early)
    first = np.argsort(-np.asarray(early), kind="stable")[: max(num_top, math.ceil(kept * count))]
    top = np.argsort(-np.asarray(final), kind="stable")[:num_top]
    recall = len(set(first.tolist()) & set(top.tolist())) / len(top)
    return Agreement(spearman(early, final), recall, count)


def kendall(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return Kendall's tau-b with a 95 % interval: Fisher's z of variance 0.437 / (n - 4).

    The variance is that of Fieller, Hartley and Pearson (Biometrika 1957). Of a tau of 1, half of one pair is taken to
    be out of order, as z would be infinite.
    """
    count = len(first)
    if count < 5 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Interval(math.nan, -1.0, 1.0)
    value = float(stats.kendalltau(first, second).statistic)
    most = 1 - 2 / (count * (count - 1))
    centre, half = math.atanh(min(max(value, -most), most)), 1.96 * math.sqrt(0.437 / (count - 4))
    return Interval(value, math.tanh(centre - half), math.tanh(centre + half))


def spearman(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return Spearman's rank correlation with a 95 % interval: Fisher's z of variance 1.06 / (n - 3)."""
    if len(first) < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Interval(math.nan, -1.0, 1.0)
    value = float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])
    half = 1.96 * 1.03 / math.sqrt(len(first) - 3)
    centre = math.atanh(min(max(value, -0.999999), 0.999999))
    return Interval(value, math.tanh(centre - half), math.tanh(centre + half))


def thin(count: int, most: int = _MOST_ROWS) -> NDArray[np.int64]:
    """Return at most this many of ``count`` rows, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


@dataclass(frozen=True)
class Response:
    """How a score follows one parameter.

    Attributes:
        at: Where the curve is given, in 0..1 of the parameter's range.
        mean, low, high: The curve, and 90 % of those of resampled trials.
        probability: Of a curve that varies as much if the parameter had no effect (a permutation test).
    """

    at: Floats
    mean: Floats
    low: Floats
    high: Floats
    probability: float


def response(
    where: Sequence[float], scores: Sequence[float], at: Sequence[float], *, is_smooth: bool, num_resampled: int = 300
) -> Response:
    """Estimate how a score follows one parameter, whatever the others do.

    A local straight line for numbers; the mean of each choice otherwise.

    Args:
        where: The parameter of each trial, in 0..1 of its range.
        scores: Their scores.
        at: Where the curve is wanted, in 0..1.
        is_smooth: Whether places between two values mean something; if not, ``at`` are the choices.
    """
    rows = thin(len(where), 1000)
    x, y, grid = np.asarray(where, float)[rows], np.asarray(scores, float)[rows], np.asarray(at, float)
    dice = np.random.default_rng(_SEED)
    # Counts of a bootstrap: how often each trial is drawn.
    drawn = dice.multinomial(len(x), np.full(len(x), 1 / len(x)), size=num_resampled).astype(float)
    curves = _fit(x, y[None, :], grid, drawn, is_smooth)
    # A resample without any trial at a choice has no mean there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(curves, (0.05, 0.95), axis=0)
    ones = np.ones((1, len(x)))
    shuffled = np.stack([dice.permutation(y) for _ in range(num_resampled)])
    own, others = _fit(x, y[None, :], x, ones, is_smooth).var(1)[0], _fit(x, shuffled, x, ones, is_smooth).var(1)
    chance = float((1 + (others >= own - 1e-12).sum()) / (1 + num_resampled))
    return Response(grid, _fit(x, y[None, :], grid, ones, is_smooth)[0], low, high, chance)


def _fit(x: Floats, y: Floats, grid: Floats, drawn: Floats, is_smooth: bool) -> Floats:
    """Return the fits at a grid: one row per row of ``y`` or of ``drawn``, of which one has a single row."""
    if not is_smooth:
        near = np.isclose(grid[:, None], x[None, :]).astype(float)
        total = drawn @ near.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((drawn * y) @ near.T / total)
    width = max(0.1, 1.06 * float(x.std()) * len(x) ** -0.2)
    apart = x[None, :] - grid[:, None]
    near = np.exp(-0.5 * (apart / width) ** 2)
    none, one, two = (drawn @ (near * apart**power).T for power in range(3))
    level, slope = ((drawn * y) @ (near * apart**power).T for power in range(2))
    # As if two more trials near each place had the mean score: without many trials around it, the line is flat there.
    two = two + 2 * width**2
    return np.asarray((two * level - one * slope) / (none * two - one**2 + 1e-12))


def importance(points: Floats, scores: Sequence[float], num_repeats: int = 30) -> list[Interval]:
    """Return how much of the scores' variance each parameter accounts for, in percent.

    Forests on resampled trials; half of what the squared error on the trials left out gains when one parameter is
    shuffled, over the variance. That estimates Sobol's total effect: Var(f) = E[(f(x) - f(x'))^2] / 2 for independent x
    and x'. What a parameter does together with another counts for both.

    Args:
        points: (trials, parameters) in 0..1.
        scores: One per trial.
        num_repeats: How many forests.

    Returns:
        The mean over the forests, with the 5 % and 95 % quantiles: how far a repetition of the search with other trials
        could move it.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    rows = thin(len(scores))
    x, y = points[rows], np.asarray(scores, float)[rows]
    dice, drops = np.random.default_rng(_SEED), []
    for repeat in range(num_repeats):
        chosen = dice.integers(0, len(y), len(y))
        left = np.setdiff1d(np.arange(len(y)), chosen)
        if len(left) < 2:
            continue
        forest = ExtraTreesRegressor(40, min_samples_leaf=2, random_state=repeat, n_jobs=1).fit(x[chosen], y[chosen])
        drops.append(_shuffle_each(forest, x[left], y[left], float(y.var()), dice))
    values = 100 * np.asarray(drops)
    low, high = np.quantile(values, (0.05, 0.95), axis=0)
    return [Interval(*map(float, each)) for each in zip(values.mean(0), low, high, strict=True)]


def _shuffle_each(
    forest: object, x: Floats, y: Floats, variance: float, dice: np.random.Generator, num_shuffles: int = 5
) -> list[float]:
    predict = forest.predict  # type: ignore[attr-defined]  # sklearn ships no types
    # All shuffles in one call: a forest needs a few ms for any number of rows.
    num_rows, num_columns = x.shape
    stacked = np.tile(x, (1 + num_columns * num_shuffles, 1, 1))
    for copy in range(num_columns * num_shuffles):
        stacked[copy + 1, :, copy // num_shuffles] = dice.permutation(x[:, copy // num_shuffles])
    errors = ((predict(stacked.reshape(-1, num_columns)).reshape(-1, num_rows) - y) ** 2).mean(1)
    return list((errors[1:].reshape(num_columns, num_shuffles).mean(1) - errors[0]) / max(2 * variance, 1e-12))


@dataclass(frozen=True)
class Surface:
    """A smooth model of the score over all parameters: its mean and deviation at some points, and the scatter.

    Attributes:
        mean, deviation: Of the surface itself, without the scatter of single runs.
        scatter: Deviation of single runs around the surface, in points.
        explained: Share of the variance of each trial's score that the others predict (leave-one-out R^2); at most 0 if
            the surface says nothing.
    """

    mean: Floats
    deviation: Floats
    scatter: float
    explained: float


def fit_surface(points: Floats, scores: Sequence[float], at: Floats) -> Surface:
    """Fit a Gaussian process that learns the length of each parameter and the scatter, and evaluate it.

    Args:
        points: (trials, parameters) in 0..1.
        scores: One per trial.
        at: (places, parameters) in 0..1.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    rows = thin(len(scores), 200)
    x, y = points[rows], np.asarray(scores, float)[rows]
    mean, deviation = float(y.mean()), float(y.std()) or 1.0
    lengths = np.full(x.shape[1], 0.7)
    kernel = ConstantKernel(1.0, (0.05, 20)) * Matern(lengths, (0.15, 10), nu=2.5) + WhiteKernel(0.1, (1e-3, 2))
    with warnings.catch_warnings():
        # A length at its bound means that a parameter has no effect, which is nothing to warn about.
        warnings.simplefilter("ignore")
        model = GaussianProcessRegressor(kernel, random_state=_SEED).fit(x, (y - mean) / deviation)
        middle, total = model.predict(at, return_std=True)
    noise = float(model.kernel_.k2.noise_level)
    own = np.sqrt(np.maximum(total**2 - noise, 0))
    # The leave-one-out error of a Gaussian process: alpha_i / (K^-1)_ii, in units of the deviation of the scores.
    inverse = cho_solve((model.L_, True), np.eye(len(y)))
    explained = 1 - float(np.mean((model.alpha_ / np.diag(inverse)) ** 2))
    return Surface(mean + deviation * middle, deviation * own, deviation * math.sqrt(noise), explained)
