"""Test the simulation of what the rule does not do, on a few repetitions."""

from __future__ import annotations

import json

from benchmarks.selection_alternatives import (
    PATH,
    adaptive_designs,
    compare_designs,
    cover,
    fixed_designs,
    regret_of,
    render,
)
from benchmarks.selection_scenarios import make_scenarios


def test_designs_stay_within_the_runs_and_noise_makes_re_runs_worth_it() -> None:
    for designs in (fixed_designs(24), adaptive_designs(24)):
        assert all(24 - sum(k * m for k, m in design) >= 6 for design in designs)
    plain, ours = regret_of(24, 1e-6, ((2, 1),), 400, 0)
    assert plain < 1e-5
    assert ours > 0, "two trials fewer, and nothing to learn"
    plain, ours = regret_of(64, 1.0, ((5, 4),), 2000, 0)
    assert 0.3 < 1 - ours / plain < 0.5
    found = compare_designs(24, 1.0, 400)
    assert found["adaptive_gain"] > 0.1


def test_a_heavy_tail_widens_the_interval() -> None:
    found = cover(make_scenarios()["normal"], 24, 1.0, 20)
    (share, width), (heavy_share, heavy_width) = found["known"], found["known, as heavy"]
    assert share <= heavy_share <= 1
    assert heavy_width > 1.5 * width


def test_what_the_report_concludes_from_is_there() -> None:
    found = json.loads(PATH.read_text(encoding="utf-8"))
    assert {(row["runs"], row["ratio"]) for row in found["re-runs"]} >= {(24, 0.35), (24, 1.0)}
    assert {row["scenario"] for row in found["intervals"]} >= {"normal", "heavy tails of the noise", "digits, EM"}
    assert render(found) == PATH.with_suffix(".md").read_text(encoding="utf-8")
