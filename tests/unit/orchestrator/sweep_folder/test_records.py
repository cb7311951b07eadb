from __future__ import annotations

import math

import pytest

from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState, best, leaderboard
from training.metric_names import VAL_MAP, VAL_OBSERVED_MAP
from training.selection import Protocol, SelectBy

CLEAN = Protocol()
OBSERVED_CONFIG = Protocol(SelectBy.OBSERVED_VAL, SelectBy.CLEAN_VAL)
LAST = Protocol(SelectBy.CLEAN_VAL, SelectBy.LAST)


def record(
    trial: int, *values: float, state: TrialState = TrialState.COMPLETE, cause: Cause | None = None
) -> TrialRecord:
    metrics = {epoch: {VAL_MAP: value, VAL_OBSERVED_MAP: 100 - value} for epoch, value in enumerate(values, start=1)}
    return TrialRecord(trial, {"optim.lr": 0.1 * trial}, "tpe", started_ms=0, state=state, cause=cause, metrics=metrics)


@pytest.mark.parametrize(
    ("protocol", "epoch", "value"), [(CLEAN, 2, 30.0), (OBSERVED_CONFIG, 2, 70.0), (LAST, 3, 20.0)]
)
def test_value_is_taken_at_the_epoch_that_the_protocol_chooses(protocol: Protocol, epoch: int, value: float) -> None:
    trial = record(0, 10.0, 30.0, 20.0)
    assert (trial.chosen_epoch(protocol), trial.value(protocol)) == (epoch, value)


def test_a_trial_without_an_epoch_or_with_nan_has_no_value() -> None:
    assert record(0).value(CLEAN) is None
    assert record(0).last_epoch == 0
    assert record(0, math.nan).value(CLEAN) is None


def test_best_is_the_highest_complete_one_and_the_first_among_equals() -> None:
    records = [
        record(3, 40.0),
        record(1, 50.0),
        record(2, 50.0),
        record(0, 90.0, state=TrialState.PRUNED),
        record(4, math.nan),
    ]
    winner = best(records, CLEAN)
    assert winner is not None
    assert winner.trial == 1


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.PRUNED, TrialState.FAILED, TrialState.INTERRUPTED])
def test_nothing_but_a_complete_trial_can_be_best(state: TrialState) -> None:
    assert best([record(0, 90.0, state=state)], CLEAN) is None
    assert best([], CLEAN) is None


def test_leaderboard_ranks_complete_trials_and_puts_the_others_below() -> None:
    records = [
        record(0, 10.0, 20.0),
        record(1, 99.0, state=TrialState.PRUNED),
        record(2, 5.0, 30.0),
        record(3, 1.0, 2.0, state=TrialState.PRUNED),
        record(4, state=TrialState.FAILED, cause=Cause.NAN),
        record(5, 99.5, state=TrialState.RUNNING),
    ]
    rows = leaderboard(records, CLEAN)
    assert [(row["rank"], row["trial"], row["state"]) for row in rows] == [
        (1, 2, "COMPLETE"),
        (2, 0, "COMPLETE"),
        (None, 3, "PRUNED"),
        (None, 5, "RUNNING"),
        (None, 1, "PRUNED"),
        (None, 4, "FAILED"),
    ]
    assert (rows[0]["value"], rows[0]["epoch"], rows[0]["params"]) == (30.0, 2, {"optim.lr": 0.2})
    assert rows[-1]["cause"] == "NAN"
