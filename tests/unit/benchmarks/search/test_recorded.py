"""Test what schedulers would have lost on recorded sweeps."""

import numpy as np
import pytest

from benchmarks.search.recorded import CURVES_FILE, RESULTS, Sweep, asha, measure, read, render, screen

EPOCHS = 10


def sweep(num_trials: int = 16) -> Sweep:
    """Return trials whose final order shows from epoch 4 on; before, it is reversed."""
    quality = np.arange(num_trials, dtype=float)
    early = np.repeat(-quality[:, None], 3, axis=1)
    late = np.repeat(quality[:, None], EPOCHS - 3, axis=1)
    return Sweep("toy", np.hstack([early, late]), np.ones((num_trials, EPOCHS)))


def test_a_screen_keeps_the_best_at_its_epoch() -> None:
    curves = sweep().curves
    assert screen(0.4, 0.25)(curves).tolist() == [4] * 12 + [EPOCHS] * 4
    assert screen(0.3, 0.25)(curves).tolist() == [EPOCHS] * 4 + [3] * 12


def test_what_is_lost_is_the_difference_to_the_best_of_those_drawn() -> None:
    lost, recall, cost = measure(sweep(), screen(0.4, 0.25), 20)
    assert (lost.max(), recall) == (0.0, 1.0)
    assert cost == pytest.approx((12 * 4 + 6 * 3) / 120)
    lost, recall, _ = measure(sweep(), screen(0.3, 0.25), 20)
    assert lost.min() >= 9
    assert recall == 0.0


def test_asha_compares_a_trial_with_those_before_it() -> None:
    ends = asha(0.4)(sweep().curves[::-1])  # the best first: it and its like are behind nobody
    assert ends[0] == EPOCHS
    assert set(ends[4:].tolist()) == {4}
    assert set(asha(1.0)(sweep().curves).tolist()) == {EPOCHS}


def test_the_recorded_sweeps_are_whole() -> None:
    sweeps = read(RESULTS / CURVES_FILE)
    assert [(found.name, found.curves.shape) for found in sweeps] == [
        ("IGNORE", (16, 20)),
        ("EM", (48, 20)),
        ("EM + APL", (38, 20)),
        ("assumed negative", (48, 20)),
    ]
    text = render([sweep()], 3)
    assert "## toy, 12 of 16 trials drawn" in text
    assert text.count("| screen at") == 12
