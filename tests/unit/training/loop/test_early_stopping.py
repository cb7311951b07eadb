"""Test when the stopping rules of published recipes end a run."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from training.config.run import LoopConfig
from training.loop.early_stopping import Best, BestOfSets, is_over, was_stopped
from training.metric_names import TRAIN_STOPPED


def last_epoch(values: Sequence[float | None], **rules: Any) -> int | None:
    """Return the epoch that ends a run with these values of the epoch metric, or None."""
    config, best = LoopConfig(**rules), Best()
    for epoch, value in enumerate(values, start=1):
        best = best.after(epoch, value)
        if is_over(config, epoch, value, best):
            return epoch
    return None


def last_epoch_of_sets(trained: Sequence[float], averaged: Sequence[float], patience: int) -> int | None:
    """Return the epoch that ends a run with trained and averaged weights, or None."""
    config, best, of_sets = LoopConfig(patience_epochs=patience), Best(), BestOfSets()
    for epoch, values in enumerate(zip(trained, averaged, strict=True), start=1):
        best, of_sets = best.after(epoch, max(values)), of_sets.after(epoch, *values)
        if is_over(config, epoch, max(values), best, of_sets):
            return epoch
    return None


def last_epoch_as_released(trained: Sequence[float], averaged: Sequence[float], patience: int) -> int | None:
    """Do the same by the rule of PLC + LAC's release, written out over the whole curve."""
    best_sets = [max(pair) for pair in zip(trained, averaged, strict=True)]
    for last in range(len(trained)):
        so_far = [values[: last + 1] for values in (best_sets, trained)]
        newest_best = max(values.index(max(values)) for values in so_far)
        if last - newest_best > patience and averaged[last] < max(averaged[: last + 1]):
            return last + 1
    return None


FALLING = [50.0, 60.0, 59.0, 58.5, 59.5, 40.0]


def test_without_a_rule_a_run_goes_on() -> None:
    assert last_epoch(FALLING) is None


@pytest.mark.parametrize(("patience", "last"), [(0, 3), (1, 4), (3, 6), (4, None)])
def test_patience_lets_so_many_epochs_without_a_gain_pass(patience: int, last: int | None) -> None:
    assert last_epoch(FALLING, patience_epochs=patience) == last


def test_a_gain_begins_the_count_anew() -> None:
    assert last_epoch([50, 49, 51, 50, 52, 51, 51], patience_epochs=1) == 7


def test_an_equal_value_is_no_gain() -> None:
    assert last_epoch([50, 50], patience_epochs=0) == 2


@pytest.mark.parametrize(("drop", "last"), [(1.0, 4), (1.5, 6), (0.5, 3), (19.9, 6), (20.0, None)])
def test_a_drop_is_below_the_best_and_not_below_the_epoch_before(drop: float, last: int | None) -> None:
    assert last_epoch(FALLING, max_drop_percent=drop) == last


def test_either_rule_ends_it() -> None:
    assert last_epoch(FALLING, patience_epochs=3, max_drop_percent=1.2) == 4
    assert last_epoch(FALLING, patience_epochs=0, max_drop_percent=50) == 3


def test_an_epoch_without_the_metric_gains_nothing_and_drops_nothing() -> None:
    assert last_epoch([50, None, None], patience_epochs=1) == 3
    assert last_epoch([50, None, None], max_drop_percent=1) is None
    assert last_epoch([None, None], patience_epochs=1) == 2


def test_with_averaged_weights_the_trained_ones_best_epoch_counts_too() -> None:
    # The averaged weights lead and fall from the second epoch on; the trained ones are best in the fourth.
    averaged = [60.0, 59, 58, 57, 56, 55, 54]
    assert last_epoch_of_sets([50.0, 51, 52, 53, 52, 51, 50], averaged, patience=2) == 7
    assert last_epoch_of_sets([50.0, 49, 48, 47, 46, 45, 44], averaged, patience=2) == 4


def test_a_run_does_not_end_while_its_averaged_weights_are_at_their_best() -> None:
    trained = [70.0, 60, 60, 60, 60, 60]
    assert last_epoch_of_sets(trained, [10.0, 20, 30, 40, 50, 45], patience=1) == 6
    assert last_epoch_of_sets(trained, [10.0, 20, 30, 30, 30, 29], patience=1) == 6
    assert last_epoch_of_sets(trained, [10.0, 20, 19, 40, 50, 45], patience=1) == 3


def test_random_curves_end_where_the_released_rule_ends_them() -> None:
    random, ended, longer = Random(0), 0, 0
    for _ in range(500):
        # Rounded, so that ties occur; rising and falling again, at a different time in each set.
        trained, averaged = (
            [round(60 - abs(epoch - peak) / 4 + random.gauss(0, 1.5), 1) for epoch in range(40)]
            for peak in (random.randrange(5, 25), random.randrange(5, 35))
        )
        found = last_epoch_of_sets(trained, averaged, patience=8)
        assert found == last_epoch_as_released(trained, averaged, patience=8)
        leading = [max(pair) for pair in zip(trained, averaged, strict=True)]
        ended += found is not None
        longer += found != last_epoch(leading, patience_epochs=8)
    assert ended > 100
    assert longer > 50, "or the rule is that of a single set of weights"


def test_what_a_rule_ended_is_told_by_its_metrics() -> None:
    assert was_stopped({"val/mAP": 1.0, TRAIN_STOPPED: 1.0})
    assert not was_stopped({"val/mAP": 1.0})
