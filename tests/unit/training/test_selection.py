"""Test which epoch and which value a protocol chooses."""

from __future__ import annotations

import pytest

from training.metric_names import VAL_MAP, VAL_OBSERVED_MAP
from training.selection import Protocol, SelectBy, choose_epoch, choose_value, epoch_metric

METRICS = {
    1: {VAL_MAP: 50.0, VAL_OBSERVED_MAP: 30.0},
    2: {VAL_MAP: 60.0, VAL_OBSERVED_MAP: 20.0},
    3: {VAL_MAP: 60.0, VAL_OBSERVED_MAP: 40.0},
    4: {VAL_MAP: 55.0, VAL_OBSERVED_MAP: 35.0},
}


@pytest.mark.parametrize(
    ("select_by", "epoch"), [(SelectBy.CLEAN_VAL, 2), (SelectBy.OBSERVED_VAL, 3), (SelectBy.LAST, 4)]
)
def test_epoch_is_the_earliest_of_the_best_or_the_last(select_by: SelectBy, epoch: int) -> None:
    assert choose_epoch(METRICS, select_by) == epoch
    assert choose_epoch(dict(reversed(METRICS.items())), select_by) == epoch


@pytest.mark.parametrize(
    ("config_by", "epoch_by", "value"),
    [
        (SelectBy.CLEAN_VAL, SelectBy.CLEAN_VAL, 60.0),
        (SelectBy.CLEAN_VAL, SelectBy.LAST, 55.0),
        (SelectBy.OBSERVED_VAL, SelectBy.CLEAN_VAL, 20.0),
        (SelectBy.OBSERVED_VAL, SelectBy.OBSERVED_VAL, 40.0),
        (SelectBy.PUBLISHED, SelectBy.OBSERVED_VAL, 40.0),
        (SelectBy.PUBLISHED, SelectBy.LAST, 55.0),
    ],
)
def test_value_is_the_configs_metric_at_the_chosen_epoch(config_by: SelectBy, epoch_by: SelectBy, value: float) -> None:
    assert choose_value(METRICS, Protocol(config_by, epoch_by)) == value


def test_nothing_is_chosen_of_nothing() -> None:
    assert choose_epoch({}, SelectBy.LAST) is None
    assert choose_value({}, Protocol()) is None
    observed_only = {1: {VAL_OBSERVED_MAP: 3.0}}
    assert choose_epoch(observed_only, SelectBy.CLEAN_VAL) is None
    assert choose_value(observed_only, Protocol(SelectBy.OBSERVED_VAL, SelectBy.CLEAN_VAL)) is None
    assert choose_value(observed_only, Protocol(SelectBy.OBSERVED_VAL, SelectBy.OBSERVED_VAL)) == 3.0


def test_score_of_zero_is_a_score() -> None:
    assert choose_epoch({1: {VAL_MAP: 0.0}}, SelectBy.CLEAN_VAL) == 1


@pytest.mark.parametrize(
    ("config_by", "epoch_by", "name"),
    [(SelectBy.LAST, SelectBy.LAST, "select_config_by"), (SelectBy.CLEAN_VAL, SelectBy.PUBLISHED, "select_epoch_by")],
)
def test_senseless_protocols_are_refused(config_by: SelectBy, epoch_by: SelectBy, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Protocol(config_by, epoch_by)


def test_protocol_reads_as_config_by_epoch() -> None:
    assert str(Protocol(SelectBy.OBSERVED_VAL, SelectBy.LAST)) == "observed-val x last"
    assert epoch_metric(SelectBy.LAST) == VAL_MAP
