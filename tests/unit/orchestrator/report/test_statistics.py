from __future__ import annotations

import numpy as np
import pytest

from orchestrator.report.statistics import (
    agreement,
    deviation_interval,
    expected_best,
    fit_surface,
    importance,
    least_difference,
    mean_interval,
    response,
    winners_curse,
)


def test_intervals_are_those_of_the_tables() -> None:
    # Three values: t is 4.303 at 2 degrees of freedom, chi-square 0.0506 and 7.378.
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.value, found.high) == pytest.approx((2.0, 2 + 4.3027 / 3**0.5), abs=1e-3)
    spread = deviation_interval([1.0, 2.0, 3.0])
    assert (spread.low, spread.high) == pytest.approx(((2 / 7.3778) ** 0.5, 6.285), abs=5e-3)
    assert mean_interval([1.0]).high == float("inf")
    assert least_difference(0.2, 3) == pytest.approx(4.3027 * 2**0.5 * 0.2, abs=1e-3)
    with pytest.raises(ValueError, match="at least two"):
        deviation_interval([1.0])


def test_expected_best_is_that_of_drawing_with_replacement() -> None:
    found = expected_best([3.0, 1.0])
    # Two draws of 1 and 3: the best is 1 in one of four cases.
    assert found.num_trials.tolist() == [1, 2]
    assert found.mean.tolist() == [2.0, 2.5]
    dice = np.random.default_rng(0)
    scores = dice.normal(size=24)
    found = expected_best(list(scores), num_points=5)
    drawn = dice.choice(scores, size=(20_000, int(found.num_trials[2]))).max(1)
    assert found.mean[2] == pytest.approx(drawn.mean(), abs=0.02)
    assert (found.low[2], found.high[2]) == tuple(np.quantile(drawn, (0.1, 0.9), method="inverted_cdf"))
    assert len(expected_best(list(dice.normal(size=5000))).mean) == 100


def test_winners_curse_is_that_of_its_formula() -> None:
    # r = 1, one true deviation: r^2 / sqrt(1 + r^2) E[max]; E[max] is 1.95 for 24 and 2.34 for 64.
    for num, largest in ((24, 1.95), (64, 2.34)):
        assert winners_curse(1.0, 2**0.5, num) == pytest.approx(largest / 2**0.5, abs=0.02)
    assert winners_curse(1.0, 0.0, 24) == 0
    assert winners_curse(9.0, 1.0, 24) == pytest.approx(1.95, abs=0.02), "no more than all of the spread is noise"


def test_agreement_counts_the_best_three_that_an_early_cut_would_have_kept() -> None:
    final = [float(score) for score in range(12)]
    same = agreement(final, final)
    assert (same.correlation.value, same.recall, same.num_trials) == pytest.approx((1.0, 1.0, 12))
    against = agreement(final[::-1], final)
    assert (against.correlation.value, against.recall) == pytest.approx((-1.0, 0.0))
    # The best of all is the last at first: two of three remain among the first four.
    early = [*final[:11], -1.0]
    assert agreement(early, final).recall == pytest.approx(2 / 3)
    assert np.isnan(agreement([1.0] * 6, final[:6]).correlation.value)


def test_a_response_finds_an_effect_and_calls_noise_noise() -> None:
    dice = np.random.default_rng(3)
    where, noise = dice.uniform(size=30), dice.normal(size=30)
    at = list(np.linspace(where.min(), where.max(), 11))
    curved = response(list(where), list(-30 * (where - 0.6) ** 2 + noise), at, is_smooth=True)
    assert curved.probability < 0.02
    assert 0.4 < curved.at[np.argmax(curved.mean)] < 0.8
    assert (curved.low <= curved.high).all()
    flat = response(list(where), list(noise), at, is_smooth=True)
    assert flat.probability > 0.05
    choices = np.repeat([0.0, 0.5, 1.0], 10)
    stepped = response(list(choices), list(3 * (choices == 0.5) + noise), [0.0, 0.5, 1.0], is_smooth=False)
    assert stepped.probability < 0.02
    assert stepped.mean[1] == pytest.approx(3 + noise[10:20].mean())


def test_importance_has_an_error_and_puts_noise_at_zero() -> None:
    dice = np.random.default_rng(0)
    points = dice.uniform(size=(60, 3))
    scores = 10 * points[:, 0] + dice.normal(size=60)
    found = importance(points, list(scores), num_repeats=8)
    assert 40 < found[0].low < found[0].high < 100
    assert all(each.low <= 0.5 and each.high < 20 for each in found[1:])
    assert importance(points, list(scores), num_repeats=8) == found, "the same numbers every time"


def test_a_surface_knows_how_far_it_can_be_trusted() -> None:
    dice = np.random.default_rng(1)
    points = dice.uniform(size=(40, 2))
    scores = 80 - 20 * (points[:, 0] - 0.5) ** 2 + 0.1 * dice.normal(size=40)
    at = np.array([[0.5, 0.5], [0.0, 0.5], [5.0, 5.0]])
    found = fit_surface(points, list(scores), at)
    assert found.mean[:2] == pytest.approx([80, 75], abs=0.5)
    assert found.deviation[2] > 5 * found.deviation[0], "far from every trial, it knows nothing"
    assert found.scatter == pytest.approx(0.1, abs=0.1)
    assert found.explained > 0.9
    assert fit_surface(points, list(dice.normal(size=40)), at).explained < 0.2
