from __future__ import annotations

import pytest

from benchmarks.cost.overhead import Timing, fit_line, render_report


def steady(num_trials: int, fixed_s: float, trial_s: float, **more: float) -> tuple[int, Timing]:
    return num_trials, Timing([fixed_s + trial_s * number for number in range(1, num_trials + 1)], **more)


def test_the_line_gives_fixed_and_marginal_cost() -> None:
    line = fit_line([steady(num, 5.0, 0.04) for num in (8, 32, 128, 300)])
    assert line == pytest.approx((5.0, 40.0))


def test_growth_compares_the_last_quarter_with_the_first() -> None:
    assert steady(300, 5.0, 0.04)[1].growth == pytest.approx(1.0)
    slowing = [0.001 * number**2 for number in range(1, 101)]
    assert Timing(slowing).growth == pytest.approx((100**2 - 75**2) / (26**2 - 1))


def test_the_report_says_whether_the_aims_are_met() -> None:
    plain = [steady(num, 5.0, 0.040) for num in (8, 100)]
    report = render_report(
        {"plain": plain, "ours": [steady(num, 8.0, 0.050, writer_cpu_s=2.0, catch_up_s=1.0) for num in (8, 100)]}
    )
    assert "| 100 | 9.0 | 13.0 | 2.0 | 1.0 |" in report
    assert "| marginal cost per trial, ms | 40 | 50 | 1.25 | at most 1.5: met |" in report
    assert "| fixed cost, s | 5.0 | 8.0 | 1.60 | |" in report
    missed = render_report({"plain": plain, "ours": [steady(num, 8.0, 0.080) for num in (8, 100)]})
    assert "| 2.00 | at most 1.5: missed |" in missed
