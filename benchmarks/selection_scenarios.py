"""The scenarios of ``benchmarks.selection``: how true qualities and scores come about, some as in recorded runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.promotion.rule import Noise, estimate_noise

Floats = npt.NDArray[np.float64]
Generator = np.random.Generator

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Scenario:
    """How true qualities and scores come about.

    Attributes:
        draw_truth: (generator, number) -> true qualities, of mean 0 and deviation 1 unless said otherwise.
        draw_noise: (generator, shape) -> noise of deviation 1.
        spread: Deviation of the logarithm of the seeds' deviation between configurations.
        is_known: Whether the rule knows both deviations; otherwise it estimates them, with ``PILOTS`` from the budget.
        num_earlier: Instead of pilots: the deviations are estimated from so many earlier configurations of 3 runs.
        asha: Whether two thirds of the trials stop at a third of their length, by a score of the same run.
        ratio: The only ratio of both deviations to simulate; None for all of ``RATIOS``.
    """

    name: str
    draw_truth: Callable[[Generator, int], Floats]
    draw_noise: Callable[[Generator, tuple[int, ...]], Floats]
    spread: float = 0.0
    is_known: bool = True
    num_earlier: int = 0
    asha: bool = False
    ratio: float | None = None


def _normal(generator: Generator, shape: int | tuple[int, ...]) -> Floats:
    return generator.standard_normal(shape)


def _heavy(generator: Generator, shape: int | tuple[int, ...]) -> Floats:
    """Student's t with 3 degrees of freedom, of deviation 1."""
    return generator.standard_t(3, shape) / math.sqrt(3)


def _skewed(generator: Generator, num: int) -> Floats:
    """Many good configurations and a long tail of bad ones: minus a gamma of shape 2."""
    return (2 - generator.gamma(2.0, 1.0, num)) / math.sqrt(2)


def _failing(generator: Generator, shape: tuple[int, ...]) -> Floats:
    """One run in twenty ends four deviations lower; of mean 0 and deviation 1 as a whole."""
    failed = generator.random(shape) < 0.05
    drawn = generator.standard_normal(shape) - 4 * failed
    return np.asarray((drawn + 0.2) / math.sqrt(1 + 16 * 0.05 * 0.95))


@dataclass(frozen=True)
class DigitsFit:
    """What recorded runs on digits say.

    Attributes:
        points: Mean score of each point, in percent.
        noise: Deviations.
        spread: Deviation of the logarithm of the seeds' deviation between rows of the methods' table.
        residuals: Standardised residuals of that table.
    """

    points: Floats
    noise: Noise
    spread: float
    residuals: Floats


@cache
def fit_digits() -> DigitsFit:
    """Fit the noise of digits: points of one space from ``selection_runs.jsonl``, residuals from ``digits.jsonl``."""
    points: dict[int, list[float]] = {}
    for line in (RESULTS / "selection_runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        points.setdefault(run["point"], []).append(run["val_mAP"])
    replicates = [scores for scores in points.values() if len(scores) > 1]
    noise = estimate_noise(replicates, [scores[0] for scores in points.values() if len(scores) == 1])
    rows: dict[str, dict[int, float]] = {}
    for line in (RESULTS / "digits.jsonl").read_text().splitlines():
        run = json.loads(line)
        rows.setdefault(run["row"], {})[run["scene_seed"]] = run["val_mAP"]
    table = np.array([list(row.values()) for row in rows.values() if len(row) == 3])
    # Scenes shift all methods alike; what remains is the seed's noise and how a method likes a set of scenes.
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    deviations = left.std(axis=1, ddof=1)
    # Of 2 degrees of freedom each, whose logarithms alone vary with a deviation of 0.64.
    spread = math.sqrt(max(0.0, float(np.log(deviations).var(ddof=1)) - 0.64**2))
    return DigitsFit(
        np.array([float(np.mean(scores)) for scores in points.values()]),
        noise,
        spread,
        np.ravel(left / deviations[:, None]),
    )


def _digits_truth(generator: Generator, num: int) -> Floats:
    """Recorded points, each moved a little, over their deviation."""
    fit = fit_digits()
    drawn = generator.choice(fit.points, num) + 0.3 * fit.noise.config_sd * generator.standard_normal(num)
    return np.asarray((drawn - fit.points.mean()) / fit.noise.config_sd)


def make_scenarios() -> dict[str, Scenario]:
    """Return the scenarios by name."""
    digits = fit_digits()
    ratio = digits.noise.seed_sd / digits.noise.config_sd
    listed = [
        Scenario("normal", _normal, _normal),
        Scenario("heavy tails of the noise", _normal, _heavy),
        Scenario("a long tail of bad configurations", _skewed, _normal),
        Scenario("one run in twenty fails", _normal, _failing),
        Scenario("noise differs between configurations", _normal, _normal, spread=0.5),
        Scenario("noise estimated from 4 pilots", _normal, _normal, is_known=False),
        Scenario("noise estimated from an earlier promotion", _normal, _normal, is_known=False, num_earlier=4),
        Scenario("ASHA", _normal, _normal, asha=True),
        Scenario(
            "ASHA, noise estimated from an earlier promotion",
            _normal,
            _normal,
            is_known=False,
            num_earlier=4,
            asha=True,
        ),
        Scenario("digits, EM", _digits_truth, _normal, spread=digits.spread, ratio=ratio),
    ]
    return {scenario.name: scenario for scenario in listed}
