"""Test trials that a rule of their recipe ends early: they are COMPLETE, and nothing waits for more epochs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.progress import estimate_left_s
from orchestrator.sweep_folder.events import EpochReported, TrialEnded
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Handout, TrialReport, TrialState, best, leaderboard
from orchestrator.trials.director import Director
from search_spaces.ranges import Range
from tests.kit.sweeps import driver_started, journal_path, make_sweep
from training.metric_names import TRAIN_STOPPED, VAL_MAP
from training.selection import Protocol

EPOCHS = 6
LENGTHS = {0: 2, 1: 6, 2: 3, 3: 1, 4: 6}
"""Trial -> the epoch after which it ends by itself, unless it is pruned."""


def make(sweep_id: str = "digits-00000001", **changes: Any) -> SweepPlan:
    settings = {
        "ranges": {"method.spbc_weight": Range(type="float", low=0, high=2)},
        "num_trials": len(LENGTHS),
        "concurrency": 1,
    }
    plan = make_sweep(
        sweep_id, **(settings | {"startup_trials": 2, "grace_epochs": 2, "reduction_factor": 2.0} | changes)
    )
    return replace(plan, base=plan.base | {"loop.epochs": EPOCHS, "loop.patience_epochs": 0})


def begin(plan: SweepPlan) -> Director:
    journal = Journal.open(journal_path(plan))
    journal.append(replace(driver_started(plan), time_ms=int(time.time() * 1000)))
    director = Director(plan, journal)
    director.record_missed_ends()
    return director


def report_of(handout: Handout, epoch: int) -> TrialReport:
    metrics = {"epoch": epoch, VAL_MAP: 50.0 + 3 * epoch + handout.trial}
    if epoch == LENGTHS[handout.trial] < EPOCHS:
        metrics[TRAIN_STOPPED] = 1.0
    return TrialReport(epoch, metrics)


def run(director: Director, checkpoints: dict[int, int]) -> None:
    """Run all that is handed out, one after another; checkpoints are a storage that outlives a driver."""
    while (handout := director.next_trial()) is not None:
        epoch = checkpoints.get(handout.trial, 0)
        goes_on = director.report(handout.trial, report_of(handout, epoch)) if epoch else True
        while goes_on:
            epoch += 1
            assert epoch <= LENGTHS[handout.trial], "an epoch after the last one was asked for"
            checkpoints[handout.trial] = epoch
            goes_on = director.report(handout.trial, report_of(handout, epoch))


def summary(plan: SweepPlan) -> dict[int, tuple[str, int, dict[str, Any]]]:
    with Journal.open(journal_path(plan)) as journal:
        records = journal.state.records
    ends = Counter(event.trial for event in follow(journal_path(plan))[0] if isinstance(event, TrialEnded))
    assert set(ends.values()) == {1}
    return {trial: (str(record.state), record.last_epoch, dict(record.params)) for trial, record in records.items()}


def test_a_trial_that_stopped_is_complete_and_ranked_by_its_best_epoch() -> None:
    plan = make(scheduler="none")
    run(begin(plan), {})
    assert {trial: found[:2] for trial, found in summary(plan).items()} == {
        trial: ("COMPLETE", last) for trial, last in LENGTHS.items()
    }
    with Journal.open(journal_path(plan)) as journal:
        records = list(journal.state.records.values())
    winner = best(records, Protocol())
    assert winner is not None
    assert (winner.trial, winner.last_epoch) == (4, 6)
    rows = leaderboard(records, Protocol())
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [(row["trial"], row["last_epoch"]) for row in rows] == [(4, 6), (1, 6), (2, 3), (0, 2), (3, 1)]


def test_asha_cuts_others_and_leaves_what_ended_by_itself() -> None:
    plan = make()
    run(begin(plan), {})
    states = {trial: (state, last) for trial, (state, last, _) in summary(plan).items()}
    assert states[3] == ("COMPLETE", 1), "before its first rung"
    assert states[0] == ("COMPLETE", 2), "at a rung"
    assert {state for state, _ in states.values()} <= {"COMPLETE", "PRUNED"}


def test_killed_after_any_line_and_resumed_it_comes_to_the_same_end() -> None:
    whole = make()
    run(begin(whole), {})
    expected = summary(whole)
    lines = journal_path(whole).read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        plan = make(f"digits-1{cut:07x}")
        journal_path(plan).write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        known = [event for event in follow(journal_path(plan))[0] if isinstance(event, EpochReported)]
        checkpoints = {event.trial: event.epoch for event in known}
        run(begin(plan), checkpoints)
        assert summary(plan) == expected, f"cut after line {cut}"


def test_killed_between_the_checkpoint_of_its_last_epoch_and_the_report_it_ends_there() -> None:
    plan = make(scheduler="none")
    director = begin(plan)
    handout = director.next_trial()
    assert handout is not None
    director.report(0, report_of(handout, 1))
    run(begin(plan), {0: 2})  # epoch 2 is written, and was never told
    assert summary(plan)[0][:2] == ("COMPLETE", 2)


def test_what_is_left_is_counted_by_what_trials_took() -> None:
    plan = make(scheduler="none")
    director = begin(plan)
    handout = director.next_trial()
    assert handout is not None
    for epoch in (1, 2):
        director.report(0, report_of(handout, epoch))
    with Journal.open(journal_path(plan)) as journal:
        state = journal.state
        record = state.records[0]
        assert record.state is TrialState.COMPLETE
        left_s = estimate_left_s(plan, state, time.time() * 1000)
    assert left_s is not None
    assert left_s <= 4 * record.run_s + 0.01, "four trials of two epochs, not of six"
