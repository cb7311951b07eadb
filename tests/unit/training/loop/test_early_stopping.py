"""Test when the stopping rules of published recipes end a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from training.config.run import LoopConfig
from training.loop.early_stopping import is_over, was_stopped
from training.metric_names import TRAIN_STOPPED


def last_epoch(values: Sequence[float | None], **rules: Any) -> int | None:
    """Return the epoch that ends a run with these values of the epoch metric, or None."""
    config, best_epoch, best_value = LoopConfig(**rules), None, float("-inf")
    for epoch, value in enumerate(values, start=1):
        if value is not None and value > best_value:
            best_epoch, best_value = epoch, value
        if is_over(config, epoch, value, best_epoch, best_value):
            return epoch
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


def test_what_a_rule_ended_is_told_by_its_metrics() -> None:
    assert was_stopped({"val/mAP": 1.0, TRAIN_STOPPED: 1.0})
    assert not was_stopped({"val/mAP": 1.0})
