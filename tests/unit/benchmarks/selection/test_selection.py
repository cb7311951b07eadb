"""Test the simulation of choices on a few repetitions; ``benchmarks/results/selection.md`` has many."""

from __future__ import annotations

import json

from benchmarks import selection
from benchmarks.selection import render_report, simulate
from benchmarks.selection_scenarios import RESULTS, Scenario, make_scenarios


def _normal() -> Scenario:
    return make_scenarios()["normal"]


def test_with_little_noise_the_rule_is_the_best_score_and_with_much_it_is_better() -> None:
    quiet = simulate(_normal(), 24, 0.1, 20)
    assert quiet.rule - quiet.plain <= selection.WORST_REGRET
    noisy = simulate(_normal(), 64, 1.0, 40)
    assert noisy.gain > 0.25
    assert noisy.raw_bias > 1.0, "the winner's curse"
    assert abs(noisy.report_bias) < 0.2
    assert noisy == simulate(_normal(), 64, 1.0, 40)


def test_every_scenario_runs_and_is_in_the_report() -> None:
    known = json.loads((RESULTS / "selection.json").read_text(encoding="utf-8"))
    assert set(known) == set(make_scenarios())
    for name, scenario in make_scenarios().items():
        found = simulate(scenario, 24, 0.5 if scenario.ratio is None else scenario.ratio, 2)
        assert 0 <= found.reruns <= 24, name
    assert render_report(known) == (RESULTS / "selection.md").read_text(encoding="utf-8")


def test_the_aims_are_met_where_the_report_says_so() -> None:
    rows = json.loads((RESULTS / "selection.json").read_text(encoding="utf-8"))["normal"].values()
    for row in rows:
        assert row["rule"] - row["plain"] <= selection.WORST_REGRET
        assert abs(row["report_bias"]) <= 0.1
        assert all(0.93 <= share <= 0.97 for share in (*row["coverage"].values(), row["winner_coverage"]))
        if row["ratio"] >= selection.AIMED_FROM:
            margin = 1.96 * row["error"] / row["plain"]
            assert 1 - row["rule"] / row["plain"] + margin >= selection.AIMED_GAIN[row["runs"]]
