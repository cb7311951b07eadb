"""Test the benchmark of the metrics: its rows compute what they say, and its report says whether the aims are met."""

from __future__ import annotations

import torch

from benchmarks.cost.metrics import (
    AIMED,
    AP,
    ONE_SET,
    WHOLE,
    SizeReport,
    Timing,
    largest_difference,
    make_split,
    measure_size,
    render_report,
)


def test_split_has_at_most_one_observed_label_an_image_and_it_is_true() -> None:
    logits, true, observed = make_split(500, 20)
    assert logits.shape == true.shape == observed.shape
    assert torch.equal(observed.sum(1), true.any(1).long())
    assert not (observed & ~true).any()


def test_ours_and_scikit_learn_agree() -> None:
    assert max(largest_difference(300, 12).values()) < 1e-12


def test_every_row_is_timed_and_the_whole_job_weighed() -> None:
    report = measure_size(400, 6, repeats=2)
    assert {of for of, _ in report.timings} == {AP, ONE_SET, WHOLE}
    assert all(
        len(timing.wall_s) == len(timing.cpu_s) == 2 and min(timing.wall_s) > 0 for timing in report.timings.values()
    )
    assert report.held_mib >= 0
    text = render_report({"small": report}, {"no ties": 1e-17}, 0.5)
    assert "## small: 400 x 6" in text
    assert "at most 1e-06: met" in text


def test_report_says_what_is_missed() -> None:
    timing = Timing([1.0, 3.0, 1.5], [0.5, 0.5, 0.5])
    text = render_report({AIMED: SizeReport((9, 9), {(WHOLE, "ours"): timing}, 5.0, 7.0)}, {"ties": 1e-3}, 0.5)
    assert f"| {WHOLE} | ours | 1.500 (1.000 - 3.000) | 0.500 |" in text
    assert "Aim: under 1 s of wall time: ours 1.50 s (missed)" in text
    assert "| ties | 1e-03 | at most 1e-06: missed |" in text
