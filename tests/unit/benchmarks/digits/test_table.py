"""Test the tables of the benchmark on digit scenes: rows by their mean, pairs compared, and sentences that fit."""

from __future__ import annotations

from typing import Any

from benchmarks.digits.table import conclude, conclude_maps, conclude_rejection, count_runs, render_report, render_table


def result(row: str, seed: int, score: float, **others: float) -> dict[str, Any]:
    unknown = ("rejection_precision", "rejection_recall", "rejection_lift", "pointing_hit_rate", "centre_hit_rate")
    known = {"row": row, "scene_seed": 1, "seed": seed, "test_mAP": score, "cpu_s": 2.0, "epochs": 20, "code": "abc"}
    return dict.fromkeys(unknown) | known | others


def test_an_ablation_is_compared_run_by_run() -> None:
    results = [result("IGNORE", seed, 80.0 + seed) for seed in range(3)]
    results += [result("IGNORE without SPBC", seed, 79.0 + seed - 0.1 * seed) for seed in range(3)]
    assert conclude(results) == ["SPBC: gains +1.1 +- 0.2 mAP (95 %, 3 pairs, 3 of them positive)."]
    assert "| IGNORE without SPBC | 79.9 +- 0.9 | +1.1 +- 0.2 |  |  |  |  | 2 | 3 |" in render_table(
        results[3:], results
    )


def test_a_loss_and_a_difference_that_is_none_are_called_so() -> None:
    results = [result("IGNORE", seed, 80.0 + seed) for seed in range(3)]
    worse = [result("IGNORE without SPBC", seed, 85.0 + seed + 0.1 * seed) for seed in range(3)]
    level = [result("IGNORE without SPBC", seed, 80.0 + 2 * (seed == 1) + seed) for seed in range(3)]
    assert conclude(results + worse)[0].startswith("SPBC: costs -5.1 +- 0.2 mAP")
    assert conclude(results + level)[0].startswith("SPBC: no clear difference, -0.7 +- 2.9 mAP")


def test_rows_are_ordered_by_their_mean_and_one_pair_has_no_interval() -> None:
    results = [result("IGNORE", 0, 80.0), result("EM", 0, 70.0), result("WAN", 0, 75.0)]
    lines = render_table(results, results).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| EM", "| WAN", "| IGNORE"]
    assert "+-" not in "".join(lines)
    assert conclude(results) == []


def test_maps_are_held_against_the_middle() -> None:
    good = result("IGNORE", 0, 80.0, pointing_hit_rate=60.0, centre_hit_rate=15.0)
    poor = result("EM", 0, 80.0, pointing_hit_rate=14.0, centre_hit_rate=15.0)
    assert "by at least 45 points (IGNORE)" in conclude_maps([good, result("WAN", 0, 70.0)])[0]
    assert conclude_maps([good, poor])[0].endswith("the maps of EM do no better.")
    assert conclude_maps([result("WAN", 0, 70.0)]) == []


def test_a_rejection_no_better_than_chance_is_named() -> None:
    good, poor = result("IGNORE", 0, 80.0, rejection_lift=3.0), result("SPLC", 0, 80.0, rejection_lift=0.9)
    assert "the lowest is 3.00 (IGNORE)" in conclude_rejection([good])[0]
    assert conclude_rejection([good, poor])[0].endswith("in at least one run: SPLC.")


def test_a_report_has_its_tables_and_explanations() -> None:
    results = [result("IGNORE", 0, 80.0), result("ROLE", 0, 70.0)]
    report = render_report(results, {"IGNORE": "main", "ROLE": "rivals"}, "## Why\n\nBecause.\n")
    headings = [line for line in report.splitlines() if line.startswith("#")]
    assert headings[0] == "# Methods on digit scenes"
    assert headings[1].startswith("## IGNORE")
    assert headings[2:] == ["## Rivals", "## What the figures say", "## Why"]
    assert render_report([], {}, "").endswith("No results of this code.\n")


def test_a_report_names_its_trees_and_what_was_repeated() -> None:
    results = [result("IGNORE", seed, 80.0) | {"code": "old"} for seed in range(3)]
    checked = {"code": "new", "of": "old", "rows": [{"row": "IGNORE"}], "date": "2026-01-31"}
    assert "Git tree of training/: old." in render_report(results, {"IGNORE": "main"}, "")
    said = render_report(results, {"IGNORE": "main"}, "", checked)
    assert "1 of the runs at old were repeated at new on 2026-01-31, with results equal to the last digit." in said
    both = render_report([*results, result("IGNORE", 3, 80.0) | {"code": "new"}], {"IGNORE": "main"}, "", checked)
    assert "Measured at git tree new and old of" in both
    of_new = [one | {"code": "new"} for one in results]
    assert "Git tree of training/: new." in render_report(of_new, {"IGNORE": "main"}, "", checked)


def test_runs_are_counted_from_a_report() -> None:
    results = [result("IGNORE", seed, 80.0) for seed in range(3)] + [result("ROLE", 0, 70.0)]
    assert count_runs(render_report(results, {"IGNORE": "main", "ROLE": "rivals"}, "Why: | 5 |")) == 4
    assert count_runs(render_report([], {}, "")) == 0
