"""Test the rule of a promotion: estimates, shrinkage, re-runs, the race and the intervals."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import intervals
from orchestrator.intervals import NestedMean, nested_mean
from orchestrator.promotion import rule
from orchestrator.promotion.rule import (
    Noise,
    Reruns,
    choose_reruns,
    estimate_noise,
    mean_interval,
    race,
    shrunken_means,
    winner_interval,
)
from orchestrator.trials import racing
from orchestrator.trials.racing import paired_p, pocock_level


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_rule_needs_neither_torch_nor_ray() -> None:
    imported = set()
    for module in (rule, racing, intervals):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    ours = {name for name in imported if name.startswith("orchestrator")}
    assert ours == {"orchestrator.intervals", "orchestrator.trials.racing"}
    assert imported - ours <= {
        "__future__",
        "collections.abc",
        "dataclasses",
        "functools",
        "math",
        "numpy",
        "scipy",
    } | {"numpy.typing"}


def test_noise_is_estimated_from_replicates_and_singles() -> None:
    # By hand: within, (2 + 2) / 2 = 2; means 10, 14 and 9, variance 7; 2 x (1/2 + 1/2 + 1) / 3 of it is noise.
    noise = estimate_noise([[9.0, 11.0], [13.0, 15.0]], [9.0])
    assert noise.seed_sd == pytest.approx(math.sqrt(2))
    assert noise.config_sd == pytest.approx(math.sqrt(7 - 2 * 2 / 3))
    assert (noise.mean, noise.seed_df) == (None, 2)
    # Of replicates of chosen configurations, only the noise counts.
    assert estimate_noise([[9.0, 11.0], [13.0, 15.0]], [9.0, 13.0], selected=True).config_sd == pytest.approx(6**0.5)
    # Never 0, which would make the choice arbitrary.
    assert estimate_noise([[9.0, 11.0]], [9.0, 9.1], selected=True).config_sd == pytest.approx(0.3 * math.sqrt(2))


def test_estimates_are_right_on_average_and_the_best_of_many_tell_all_of_them() -> None:
    rng, found, cut = _rng(), [], []
    for _ in range(300):
        truth = rng.normal(80, 3, 60)
        first = truth + rng.normal(0, 2, 60)
        replicates = truth[:6, None] + rng.normal(0, 2, (6, 3))
        found.append(estimate_noise(replicates.tolist(), first[6:].tolist()))
        best = np.sort(first)[-15:].tolist()
        cut.append(estimate_noise((replicates - truth[:6, None]).tolist(), best, num_trials=60, selected=True))
    for noises in (found, cut):
        assert np.mean([noise.config_sd for noise in noises]) == pytest.approx(3, rel=0.05)
        assert np.mean([noise.seed_sd**2 for noise in noises]) == pytest.approx(4, rel=0.05)
    assert np.mean([noise.mean for noise in cut if noise.mean is not None]) == pytest.approx(80, abs=0.3)


def test_shrunken_means_keep_the_share_that_is_quality() -> None:
    noise = Noise(config_sd=1.0, seed_sd=1.0)
    assert shrunken_means({0: [80.0], 1: [84.0]}, noise) == pytest.approx({0: 81.0, 1: 83.0})
    # More runs are believed more: 2 / 3 of the distance instead of 1 / 2; the mean of all is weighted likewise.
    centre = (80 / 2 + 84 / 1.5) / (1 / 2 + 1 / 1.5)
    expected = {7: centre + (80 - centre) / 2, 9: centre + (84 - centre) * 2 / 3}
    assert shrunken_means({7: [80.0], 9: [83.0, 85.0]}, noise) == pytest.approx(expected)
    assert shrunken_means({0: [80.0], 1: [84.0]}, Noise(1.0, 1.0, mean=70.0)) == pytest.approx({0: 75.0, 1: 77.0})
    for noise, expected in ((Noise(1, 0), {0: 80.0, 1: 84.0}), (Noise(0, 1), {0: 82.0, 1: 82.0})):
        assert shrunken_means({0: [80.0], 1: [84.0]}, noise) == pytest.approx(expected)
    assert shrunken_means({0: [80.0], 1: [84.0]}, Noise(0, 0)) == {0: 80.0, 1: 84.0}


def test_reruns_follow_the_noise_and_stay_within_the_budget() -> None:
    scores = _rng().normal(80, 2, 32).tolist()
    chosen = {}
    for seed_sd in (0.1, 1.0, 2.0, 4.0):
        for budget in (0, 1, 5, 16, 32):
            found = choose_reruns(scores, Noise(2.0, seed_sd), budget)
            assert found.num_runs <= budget
            assert (found.k == 0) == (found.m == 0)
            assert found == choose_reruns(scores, Noise(2.0, seed_sd), budget)
            chosen[seed_sd, budget] = found
    # A little noise: further trials are worth more. Much of it: re-runs are.
    assert chosen[0.1, 32] == Reruns(0, 0)
    assert chosen[2.0, 32].k >= 3
    assert chosen[4.0, 32].num_runs >= chosen[1.0, 32].num_runs
    # A clear leader needs no second look; nor does a choice without noise, or one of equals.
    assert choose_reruns([80.0, 81.0, 80.5, 99.0], Noise(1.0, 1.0), 1) == Reruns(0, 0)
    for noise in (Noise(1.0, 0.0), Noise(0.0, 1.0), Noise(0.0, 0.0)):
        assert choose_reruns(scores, noise, 16) == Reruns(0, 0)
    assert choose_reruns([80.0, 80.1], Noise(1.0, 1.0), 400).k <= 2
    assert choose_reruns([80.0], Noise(1.0, 1.0), 10) == Reruns(0, 0)


def test_a_race_drops_who_is_clearly_worse_but_nobody_before_three_blocks() -> None:
    blocks: list[dict[int, float | None]] = [
        {4: 80.0 + shift, 7: 79.9 - shift, 2: 70.0 + shift, 9: 80.0} for shift in (0.0, 0.3, -0.2, 0.1)
    ]
    assert race(blocks[:2], 5) == [4, 7, 2, 9]
    assert race(blocks[:3], 5) == [4, 7, 9]
    # Who was dropped needs no more scores; who failed is out at once.
    later: list[dict[int, float | None]] = [*blocks[:3], {4: 80.0, 7: 79.0, 9: None}]
    assert race(later, 5) == [4, 7]
    assert race([{1: None, 2: None}], 3) == []
    assert race([{1: 5.0}], 1) == [1]
    # Equal in every block: no difference, and no deviation of it.
    assert race([{1: 5.0, 2: 5.0}] * 4, 4) == [1, 2]


def test_equals_are_dropped_as_rarely_as_the_level_says() -> None:
    rng, dropped = _rng(3), 0
    for _ in range(600):
        scores = rng.normal(0, 1, (6, 2))
        dropped += len(race([{0: float(a), 1: float(b)} for a, b in scores], 6)) < 2
    # Either of the two may lead, so twice the level of one comparison.
    assert dropped / 600 == pytest.approx(0.10, abs=0.03)


def test_levels_are_those_of_pococks_table() -> None:
    # Two-sided tables at 0.10 and 0.05 (Jennison and Turnbull, Table 2.1).
    from scipy.special import ndtri

    for looks, bounds in {2: (1.875, 2.178), 3: (1.992, 2.289), 5: (2.122, 2.413), 10: (2.270, 2.555)}.items():
        found = [-ndtri(pocock_level(looks, level)) for level in (0.05, 0.025)]
        assert found == pytest.approx(bounds, abs=0.002)
    assert pocock_level(1, 0.05) == 0.05


def test_a_paired_test_sees_what_seeds_share() -> None:
    assert paired_p([1.0, 5.0, 9.0], [0.9, 4.8, 8.9]) == pytest.approx(0.0286, abs=1e-3)
    assert paired_p([1.0, 2.0], [0.0, 1.0]) == 0.0
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_p([3.0], [1.0]) == 1.0


def test_mean_interval_is_students() -> None:
    # t of 4 degrees of freedom is 2.776; the deviation of 1..5 is 1.5811.
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-3)
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    assert mean_interval([1.0, 2.0, 3.0], level=0.5)[1] < high


def test_the_mean_over_draws_is_that_of_a_one_way_layout() -> None:
    # By hand: means 11, 14, 17; their deviation 3; t of 2 degrees of freedom is 4.303, so 4.303 x 3 / sqrt(3) = 7.452.
    # Within, each variance is 2; between, 9 - 2 / 2 = 8.
    found = nested_mean([[10.0, 12.0], [13.0, 15.0], [16.0, 18.0]])
    assert (found.mean, found.low, found.high) == pytest.approx((14.0, 6.548, 21.452), abs=1e-3)
    assert (found.group_sd, found.value_sd) == pytest.approx((math.sqrt(8), math.sqrt(2)))
    assert nested_mean([[1.0, 3.0], [2.0, 2.0]]).group_sd == 0.0, "less than the seeds alone would give"
    assert nested_mean([[1.0, 3.0]]) == NestedMean(2.0, None, None, None, math.sqrt(2))
    single = nested_mean([[1.0], [3.0]])
    assert (single.group_sd, single.value_sd, single.low is None) == (None, None, False)


def test_the_interval_over_draws_covers_as_often_as_it_says() -> None:
    rng, covered, pooled = _rng(7), 0, 0
    for _ in range(1500):
        runs = rng.standard_normal((4, 1)) + 0.7 * rng.standard_normal((4, 3))
        found = nested_mean(runs.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
        low, high = mean_interval(runs.ravel().tolist())
        pooled += low <= 0 <= high
    assert 0.935 < covered / 1500 < 0.965
    assert pooled / 1500 < 0.8, "an interval over all runs takes seeds of one draw for news about others"


def test_the_winners_interval_covers_as_often_as_it_says_whatever_the_truth_is() -> None:
    rng = _rng(5)
    truths = {
        "all equal": np.zeros(24),
        "one clear winner": np.array([8.0, *np.zeros(23)]),
        "two": np.array([0.0, 0.5]),
        "spread": np.linspace(-2, 2, 12),
    }
    for name, truth in truths.items():
        covered = []
        for _ in range(800):
            scores = truth + rng.normal(0, 1, truth.size)
            low, high = winner_interval(scores.tolist(), Noise(1.0, 1.0))
            covered.append(low <= truth[scores.argmax()] <= high)
        assert np.mean(covered) == pytest.approx(0.953, abs=0.025), name


def test_the_winners_interval_reaches_down_where_the_second_is_close() -> None:
    noise = Noise(1.0, 1.0)
    clear, close = winner_interval([80.0, 90.0], noise), winner_interval([89.9, 90.0], noise)
    assert clear == pytest.approx((90 - 1.98, 90 + 1.98), abs=0.05)
    assert close[0] < clear[0]
    assert close[1] < clear[1]
    tied = winner_interval([90.0] * 24, noise)
    assert 90 - 4 < tied[0] < tied[1] < 90
    # Alone, nothing was chosen: the ordinary interval.
    assert winner_interval([90.0], noise) == pytest.approx((90 - 1.96, 90 + 1.96), abs=1e-3)
    assert winner_interval([90.0, 80.0], Noise(1.0, 0.0)) == (90.0, 90.0)
    known, guessed = winner_interval([90.0, 89.0], noise), winner_interval([90.0, 89.0], Noise(1.0, 1.0, seed_df=4))
    assert guessed[1] - guessed[0] > known[1] - known[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Noise(-1.0, 1.0), "config_sd must be a finite number of at least 0, but got -1.0"),
        (lambda: Noise(1.0, math.nan), "seed_sd must be a finite number"),
        (lambda: Noise(1.0, 1.0, mean=math.inf), "mean must be finite"),
        (lambda: Noise(1.0, 1.0, seed_df=0), "seed_df must be above 0"),
        (lambda: estimate_noise([], [1.0, 2.0]), "at least two scores of one configuration"),
        (lambda: estimate_noise([[1.0], [2.0]], []), "at least two scores of one configuration"),
        (lambda: estimate_noise([[1.0, 2.0]], []), "at least two configurations, but got 1"),
        (lambda: estimate_noise([[1.0, math.nan]], [1.0]), "replicates must be finite numbers, but got 1.0, nan"),
        (lambda: estimate_noise([[]], [1.0]), "replicates must have at least 1 value, but got 0"),
        (lambda: estimate_noise([[1.0, 2.0]], [1.0, 3.0], num_trials=2), "num_trials must be at least the 3 scores"),
        (lambda: choose_reruns([], Noise(1, 1), 4), "scores must have at least 1 value"),
        (lambda: choose_reruns([1.0], Noise(1, 1), -1), "budget_runs must be a whole number of at least 0"),
        (lambda: choose_reruns([1.0], Noise(1, 1), 1.5), "budget_runs must be a whole number"),  # type: ignore[arg-type]
        (lambda: shrunken_means({}, Noise(1, 1)), "at least one configuration"),
        (lambda: shrunken_means({3: []}, Noise(1, 1)), r"observations\[3\] must have at least 1 value"),
        (lambda: race([], 3), "blocks must be from 1 to num_blocks=3, but got 0"),
        (lambda: race([{}], 3), "at least one candidate"),
        (lambda: race([{1: 1.0, 2: 2.0}, {1: 1.0}], 3), "block 1 lacks candidate 2"),
        (lambda: race([{1: math.nan}], 3), "block 0 must be finite numbers"),
        (lambda: race([{1: 1.0}], 3, level=1.0), "level must be between 0 and 1"),
        (lambda: pocock_level(0), "num_looks must be at least 1"),
        (lambda: mean_interval([1.0]), "values must have at least 2 values, but got 1"),
        (lambda: mean_interval([1.0, 2.0], level=95), "level must be between 0 and 1, but got 95"),
        (lambda: winner_interval([], Noise(1, 1)), "scores must have at least 1 value"),
        (lambda: winner_interval([1.0, math.inf], Noise(1, 1)), "scores must be finite"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_worked_example_of_the_documentation_is_what_the_functions_compute() -> None:
    text = (Path(__file__).parents[4] / "docs" / "results.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))

    def scores_of(step: str) -> list[float]:
        return [float(number) for number in re.findall(r"\d\d\.\d(?!\d)", shown[step])]

    intro = text.partition("Eight trials score ")[2].partition("There is a champion")[0]
    numbers = [float(number) for number in re.findall(r"\d\d\.\d", intro)]
    scores, replicates = numbers[:8], [numbers[start : start + 4] for start in (8, 12, 16)]
    noise = estimate_noise(replicates, scores, selected=True)
    assert f"{noise.seed_sd:.2f}" == shown["deviation between seeds, pooled"]
    assert f"{noise.config_sd:.2f}" == shown["deviation between configurations"]
    assert f"{max(scores):.2f}" == shown["best score"]
    assert (
        f"{shrunken_means({trial: [score] for trial, score in enumerate(scores)}, noise)[0]:.2f}" == shown["shrunken"]
    )
    low, high = winner_interval(scores, noise)
    assert f"{low:.2f} to {high:.2f}" == shown["its interval, from the sweep alone"]
    reruns = choose_reruns(scores, noise, 12)
    assert shown["further runs within 12"].startswith(f"{reruns.k} candidates, {reruns.m} seed each")
    raced = {trial: scores_of(f"race, trial {trial}") for trial in range(3)}
    champion = scores_of("race, champion")
    blocks = [{9: champion[block], **{trial: runs[block] for trial, runs in raced.items()}} for block in range(3)]
    assert race(blocks, 3) == [1]
    for trial in (0, 2):
        assert shown[f"race, trial {trial}"].endswith(f"dropped, p = {paired_p(raced[1], raced[trial]):.3f}")
    observed = {trial: [score, *raced.get(trial, ())] for trial, score in enumerate(scores)}
    # The runs of the race tell the noise too.
    noise = estimate_noise([*replicates, *raced.values(), champion], scores, selected=True)
    assert shown["deviations, with the race"] == f"{noise.seed_sd:.2f} and {noise.config_sd:.2f}"
    posterior = shrunken_means(observed, noise)[1]
    assert shown["shrunken mean of all runs, trial 1"].startswith(f"{posterior:.2f}: above the champion")
    assert shown["race, champion"].endswith(f"mean {np.mean(champion):.2f}")
    assert posterior > np.mean(champion)
    own, theirs = scores_of("fresh seeds, trial 1"), scores_of("fresh seeds, champion")
    low, high = mean_interval(own)
    assert shown["fresh seeds, trial 1"].endswith(f": {np.mean(own):.2f}, {low:.2f} to {high:.2f}")
    differences = [a - b for a, b in zip(own, theirs, strict=True)]
    low, high = mean_interval(differences)
    assert shown["fresh seeds, champion"].endswith(f"difference {np.mean(differences):+.2f}, {low:+.2f} to {high:+.2f}")
