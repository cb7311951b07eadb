"""Test the report of ``benchmarks.step``: aims are judged, and a digits step's time divided, by the rows alone."""

from __future__ import annotations

from typing import Any

from benchmarks.step.report import BATCH_NORM, CONVOLUTION, UNREJECTED, render
from benchmarks.step.variants import CHANNELS_LAST, STRAIGHT

SIZE = {"device": "x86_64 CPU", "torch": "2", "backbone": "trunk", "image_size": 40, "batch_size": 4}


def step(variant: str, images_s: list[float], peak_mb: float) -> dict[str, Any]:
    return {
        "kind": "step",
        **SIZE,
        "variant": variant,
        "images_s": images_s,
        "peak_mb": peak_mb,
        "threads": 2,
        "load": 1.5,
    }


def curve(distance: float) -> dict[str, Any]:
    return {
        "kind": "curve",
        **SIZE,
        "variant": UNREJECTED,
        "distance": distance,
        "first": 1.0,
        "last": 0.9,
        "steps": 20,
    }


def digit_step(variant: str, ms_step: float, **groups: float) -> dict[str, Any]:
    return {"kind": "digits step", **SIZE, "variant": variant, "ms_step": ms_step, "ms_groups": groups, "load": 3.0}


def test_a_ratio_is_of_the_same_round_and_has_its_range() -> None:
    text = render([step(STRAIGHT.name, [1.0, 2.0, 4.0], 1000), step(CHANNELS_LAST.name, [2.0, 3.0, 4.4], 849.6)])
    assert f"| {STRAIGHT.name} | 2.00 (1.00 - 4.00) | 1.00 | 1,000 | 1.000 |  |" in text
    assert f"| {CHANNELS_LAST.name} | 3.00 (2.00 - 4.40) | 1.50 (1.10 - 2.00) | 850 | 0.850 |  |" in text


def test_aims_are_met_and_missed_by_unrounded_figures() -> None:
    first = step(STRAIGHT.name, [1.0], 1000)
    met = render([first, step(CHANNELS_LAST.name, [1.08], 850), curve(1e-4)])
    assert "speed: 1.080, met; at most 0.85 times its peak memory: 0.850, met;" in met
    assert "before any rejection: 1.0e-04, met." in met
    missed = render([first, step(CHANNELS_LAST.name, [1.079], 850.4), curve(1.1e-4)])
    assert "speed: 1.079, missed; at most 0.85 times its peak memory: 0.850, missed;" in missed
    assert "before any rejection: 1.1e-04, missed." in missed


def test_no_aim_is_judged_without_its_rows() -> None:
    assert "Aims" not in render([step(CHANNELS_LAST.name, [1.0], 850), curve(1e-5)])
    assert "rejection:" not in render([step(STRAIGHT.name, [1.0], 1000), step(CHANNELS_LAST.name, [1.0], 850)])


def test_what_is_not_convolution_is_counted_from_the_groups() -> None:
    epoch = {
        "kind": "digits",
        **SIZE,
        "variant": "ours",
        "ms_epoch": {CONVOLUTION: 60.0, BATCH_NORM: 40.0},
        "num_epochs": 3,
        "load": 2.0,
    }
    text = render(
        [
            epoch | {"eval_frac": 0.0625},
            digit_step(STRAIGHT.name, 40.0, **{CONVOLUTION: 20.0, BATCH_NORM: 8.0}),
            digit_step(CHANNELS_LAST.name, 30.0, **{CONVOLUTION: 20.0, BATCH_NORM: 6.0}),
            digit_step("compiled", 29.0, **{CONVOLUTION: 19.0}),
        ]
    )
    assert f"| {CHANNELS_LAST.name} | 30.0 | 20.0 | 6.0 | 4.0 |" in text
    assert "| compiled | 29.0 | 19.0 |  | 10.0 |" in text
    assert "ours takes 0.50 of the straightforward step's, met." in text
    assert "Evaluation takes 6.2 % of an epoch's wall time" in text
