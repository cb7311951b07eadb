"""Test comparisons of methods over common seeds on figures computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.intervals import mean_interval
from orchestrator.results.comparison import (
    compare_paired,
    correct_holm,
    find_best_probs,
    find_floor,
    format_p,
    group_ties,
    pool_difference_sd,
)


class TestPairedDifferences:
    def test_by_hand(self) -> None:
        # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so 2 -+ 2.4841; t = 3.4641, p = 0.0742.
        found = compare_paired([81.0, 83.0, 85.0], [80.0, 81.0, 82.0])
        assert (found.mean, found.num) == (2.0, 3)
        assert (found.low, found.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
        assert found.p == pytest.approx(0.0742, abs=1e-4)

    def test_equal_differences(self) -> None:
        assert compare_paired([1.0, 2.0], [1.0, 2.0]).p == 1.0
        assert compare_paired([2.0, 3.0], [1.0, 2.0]).p == 0.0

    def test_a_missing_seed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a score for every seed, but got 3 and 2"):
            compare_paired([1.0, 2.0, 3.0], [1.0, 2.0])
        with pytest.raises(ValueError, match="finite"):
            compare_paired([1.0, float("nan")], [1.0, 2.0])


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted 0.01, 0.02, 0.03, 0.20 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.20; none may fall below the one before.
        assert correct_holm([0.03, 0.01, 0.20, 0.02]) == pytest.approx([0.06, 0.04, 0.20, 0.06])
        assert correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert correct_holm([0.6, 0.7]) == [1.0, 1.0]
        assert correct_holm([]) == []


class TestFloor:
    def test_the_figures_that_the_design_was_based_on(self) -> None:
        # RESULTS: one comparison with 3, 5, 10 seeds; the first step of Holm over 5 with 5 and 10; over 18.
        expected = {(3, 1): 2.5, (5, 1): 1.2, (10, 1): 0.7, (5, 5): 2.1, (10, 5): 1.0, (5, 18): 2.9, (10, 18): 1.3}
        for (seeds, comparisons), floor in expected.items():
            assert find_floor(seeds, comparisons) == pytest.approx(floor, abs=0.06), (seeds, comparisons)

    def test_deviation_of_differences_is_pooled_over_pairs(self) -> None:
        # a - b: 0, 2 (variance 2); a - c: 1, 1 (0); b - c: 1, -1 (2). Mean 4 / 3.
        found = pool_difference_sd({"a": [1.0, 2.0], "b": [1.0, 0.0], "c": [0.0, 1.0]})
        assert found == pytest.approx((4 / 3) ** 0.5)
        assert pool_difference_sd({"a": [1.0, 2.0]}) is None


class TestTies:
    def test_a_method_far_below_leads_the_next_group(self) -> None:
        scores = {
            "low": [50.0, 51.0, 50.5, 50.2],
            "best": [90.0, 91.0, 90.5, 90.2],
            "near": [89.0, 92.0, 89.5, 90.5],
            "lower": [48.0, 52.0, 50.0, 50.0],
        }
        assert group_ties(scores) == {"best": 1, "near": 1, "low": 2, "lower": 2}

    def test_one_method_and_none(self) -> None:
        assert group_ties({"a": [1.0, 2.0]}) == {"a": 1}
        assert group_ties({}) == {}


class TestTheDocumentation:
    def test_the_worked_example_is_what_the_functions_compute(self) -> None:
        page = (Path(__file__).parents[4] / "docs" / "results.md").read_text(encoding="utf-8")
        example = page[page.index("### A worked example of a comparison") :].partition("\n## ")[0]
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in example.splitlines() if "|" in line]
        table = {row[0]: row[1:] for row in rows}
        scores = {method: [float(word) for word in table[method][0].split(", ")] for method in ("ignore", "em", "wan")}
        groups, probs = group_ties(scores), find_best_probs(scores)
        for method, values in scores.items():
            low, high = mean_interval(values)
            mean = sum(values) / len(values)
            shown = [f"{mean:.2f}", f"{low:.2f} to {high:.2f}", str(groups[method]), f"{probs[method]:.2f}"]
            assert table[method][1:] == shown, method
        found = [compare_paired(scores["ignore"], scores[other]) for other in ("em", "wan")]
        for other, difference, p in zip(("em", "wan"), found, correct_holm([each.p for each in found]), strict=True):
            text = f"{difference.mean:+.2f}, {difference.low:+.2f} to {difference.high:+.2f}"
            assert table[f"ignore - {other}"][0] == f"{text}; p {format_p(difference.p)}, corrected {format_p(p)}"
        sd = pool_difference_sd(scores)
        assert sd is not None
        assert f"{find_floor(5, 2):.2f} x {sd:.2f} = {find_floor(5, 2) * sd:.2f}" in example


class TestProbabilityOfBeingBest:
    def test_equal_methods_share_it(self) -> None:
        found = find_best_probs({"a": [1.0, 2.0, 3.0], "b": [3.0, 1.0, 2.0], "c": [2.0, 1.0, 3.0]})
        assert list(found.values()) == pytest.approx([1 / 3] * 3, abs=1e-3)

    def test_two_methods_by_hand(self) -> None:
        # With many seeds both are normal: P = Phi((0.1 / sqrt(2)) / e), where e is the error of each mean.
        values = [-1.0, 1.0] * 500
        found = find_best_probs({"a": [value + 0.1 for value in values], "b": values})
        error = (1000 / 999) ** 0.5 / 1000**0.5
        assert error == pytest.approx(0.0316386, abs=1e-6)
        # Phi(0.0707107 / 0.0316386) = Phi(2.23495) = 0.98729
        assert found["a"] == pytest.approx(0.98729, abs=5e-4)

    def test_equal_scores_and_one_method(self) -> None:
        assert find_best_probs({"a": [5.0, 5.0], "b": [4.0, 4.0]})["a"] == pytest.approx(1.0)
        assert find_best_probs({"a": [5.0, 5.0]}) == {"a": 1.0}
