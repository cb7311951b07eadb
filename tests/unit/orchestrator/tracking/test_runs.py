"""Test writing a journal to MLflow: exactly once, whichever call the writer dies at; and what MLflow gets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import TestOpened
from orchestrator.sweep_folder.ledger import HEAD_FILE, LEDGER_FILE
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.tracking.runs import PARENT_TAG, TRIAL_TAG, Point, RunsWriter, wall_times
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore, Killed
from tests.kit.openings import open_set


@pytest.fixture
def plan(home: Path) -> SweepPlan:
    return sweeps.make_sweep()


def _writer(plan: SweepPlan, store: FakeStore) -> RunsWriter:
    return RunsWriter(plan, sweeps.journal_path(plan), store)


def _contents(store: FakeStore) -> Any:
    """Everything in the store, without the ids that it gave."""
    names = {run_id: run.trial for run_id, run in store.runs.items()}
    runs = [
        (
            run.trial,
            run.status,
            store.ends.get(run_id),
            store.params.get(run_id),
            store.files.get(run_id),
            run.tags | {PARENT_TAG: ""},
        )
        for run_id, run in store.runs.items()
    ]
    rows = sorted((names[row[0]], *row[1:]) for row in store.rows if names[row[0]] is not None)
    return sorted(runs, key=lambda entry: -1 if entry[0] is None else entry[0]), rows


def test_each_epoch_once_whatever_call_the_writer_dies_at(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    undisturbed = FakeStore()
    _writer(plan, undisturbed).catch_up()
    for call in range(1, undisturbed.calls + 1):
        for moment in ("die_before", "die_after"):
            store = FakeStore()
            setattr(store, moment, call)
            with pytest.raises(Killed):
                _writer(plan, store).catch_up()
            setattr(store, moment, None)
            _writer(plan, store).catch_up()
            assert _contents(store) == _contents(undisturbed), (moment, call)


def test_dying_again_and_again_while_the_journal_grows(plan: SweepPlan) -> None:
    undisturbed, store = FakeStore(), FakeStore()
    for number, event in enumerate(sweeps.whole_sweep(plan)):
        sweeps.write_events(plan, [event])
        store.die_after = store.calls + 1 + number % 3
        with contextlib.suppress(Killed):
            _writer(plan, store).catch_up()
        store.die_after = None
    _writer(plan, store).catch_up()
    _writer(plan, undisturbed).catch_up()
    assert _contents(store)[1] == _contents(undisturbed)[1]
    assert {trial: store.epochs(trial) for trial in range(4)} == {0: [1, 2, 3], 1: [1], 2: [], 3: [1, 2, 3]}


def test_following_writes_the_same_as_reading_at_the_end(plan: SweepPlan) -> None:
    follower, late = FakeStore(), FakeStore()
    writer = _writer(plan, follower)
    for event in sweeps.whole_sweep(plan):
        sweeps.write_events(plan, [event])
        assert writer.catch_up()
    assert not writer.catch_up()
    _writer(plan, late).catch_up()
    assert _contents(follower) == _contents(late)


def test_statuses_and_ends_are_the_journals(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    assert [store.of_trial(trial).status for trial in (None, 0, 1, 2, 3)] == [
        "FINISHED",
        "FINISHED",
        "KILLED",
        "FAILED",
        "FINISHED",
    ]
    assert store.ends[store.of_trial(3).run_id] == sweeps.START_MS + 24_100
    assert store.of_trial(2).tags["orchestrator.cause"] == "NAN"
    assert store.of_trial(3).tags["orchestrator.attempts"] == "2"


def test_interrupted_trial_waits_then_goes_on_in_its_own_run(plan: SweepPlan) -> None:
    events = sweeps.whole_sweep(plan)
    sweeps.write_events(plan, events[:14])
    store = FakeStore()
    _writer(plan, store).catch_up()
    waiting = store.of_trial(3).run_id
    assert [store.of_trial(trial).status for trial in (None, 3)] == ["SCHEDULED", "SCHEDULED"]
    sweeps.write_events(plan, events[14:17])
    _writer(plan, store).catch_up()
    assert (store.of_trial(3).run_id, store.of_trial(3).status, store.epochs(3)) == (waiting, "RUNNING", [1, 2])


def test_nothing_but_trials_has_a_parent(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    parent = store.of_trial(None)
    assert PARENT_TAG not in parent.tags
    assert {run.tags[PARENT_TAG] for run in store.runs.values() if TRIAL_TAG in run.tags} == {parent.run_id}


def test_trial_carries_its_whole_configuration_and_the_provenance_of_the_driver_that_ran_it(plan: SweepPlan) -> None:
    events = sweeps.whole_sweep(plan)
    events[14] = sweeps.driver_started(plan, 20, sweeps.PROVENANCE | {"commit": "later"})
    sweeps.write_events(plan, events)
    store = FakeStore()
    _writer(plan, store).catch_up()
    params = store.params[store.of_trial(0).run_id]
    assert params["method.cam_threshold"] == "0.5"
    assert set(params) == set(plan.base)
    assert [store.of_trial(trial).tags["provenance.commit"] for trial in (None, 0, 3)] == ["later", "c0ffee", "later"]


def test_sweep_run_names_the_best_and_has_the_space(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    run = store.of_trial(None)
    assert (run.tags["orchestrator.best_trial"], run.tags["orchestrator.best_value"]) == ("3", "80.000")
    assert store.files[run.run_id] == {"space.yaml", "plan.json"}
    assert store.params[run.run_id]["search.sampler"] == "tpe"


def test_spooled_files_are_logged_and_taken_away(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    spool = sweeps.journal_path(plan).parent / "spool"
    for name in ("t0003", "t0003.tmp", "t0099"):
        (spool / name).mkdir(parents=True)
        (spool / name / "per_class_ap.parquet").write_text("x")
    store = FakeStore()
    writer = _writer(plan, store)
    writer.catch_up()
    assert store.files[store.of_trial(3).run_id] == {"per_class_ap.parquet"}
    assert sorted(path.name for path in spool.iterdir()) == ["t0003.tmp", "t0099"]


def test_test_figures_reach_runs_that_have_ended(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    opened = TestOpened({"0": {"test/mAP": 61.5}}, {"0": 2}, time_ms=sweeps.START_MS)
    sweeps.write_events(plan, [opened])
    for _ in range(2):
        _writer(plan, store).catch_up()
    assert store.epochs(0, "test/mAP") == [2]
    assert store.of_trial(0).status == "FINISHED"


def test_an_opening_is_logged_with_the_ledger(plan: SweepPlan) -> None:
    opening = open_set()
    opened = TestOpened({"0": {"test/mAP": 61.5}}, {"0": 2}, opening=1, line_hash=opening.hash, time_ms=sweeps.START_MS)
    sweeps.write_events(plan, [*sweeps.whole_sweep(plan), opened])
    store = FakeStore()
    _writer(plan, store).catch_up()
    run = store.of_trial(None)
    assert {HEAD_FILE, LEDGER_FILE} < store.files[run.run_id]
    assert run.tags["orchestrator.test_opening"] == "1"
    assert run.tags["orchestrator.test_opening_hash"] == opening.hash


def test_no_batch_is_larger_than_mlflow_takes_nor_cuts_an_epoch(plan: SweepPlan) -> None:
    class Limited(FakeStore):
        def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
            assert sum(len(point.metrics) for point in points) + len(params) + len(tags) <= 1000
            super().log(run_id, points, params, tags)

    epochs = [sweeps.epoch_reported(0, epoch, 2 + epoch) for epoch in range(1, 151)]
    sweeps.write_events(plan, [sweeps.driver_started(plan), sweeps.trial_started(0, 1), *epochs])
    store = Limited()
    _writer(plan, store).catch_up()
    assert store.epochs(0) == list(range(1, 151))


def test_wall_times_add_up_and_the_rest_is_logging() -> None:
    metrics = {
        epoch: {"time/data_s": 1.0, "time/train_s": 2.0, "time/eval_s": 0.5, "time/checkpoint_s": 0.25}
        for epoch in (1, 2)
    }
    record = TrialRecord(
        0, {}, "tpe", 0, metrics=metrics, spans=((0, 5_000), (10_000, 15_000)), queue_s=1.0, start_s=1.0
    )
    assert wall_times(record) == {
        "wall/queue_s": 1.0,
        "wall/start_s": 1.0,
        "wall/data_s": 2.0,
        "wall/train_s": 4.0,
        "wall/eval_s": 1.0,
        "wall/checkpoint_s": 0.5,
        "wall/log_s": 0.5,
        "wall/total_s": 10.0,
    }


def test_runs_end_when_their_driver_was_last_at_work(plan: SweepPlan) -> None:
    hours = 8 * 3600.0
    before = [sweeps.driver_started(plan), sweeps.trial_started(0, 1), sweeps.epoch_reported(0, 1, 4)]
    # Killed; 8 h later one driver writes the trial's end and is killed, then a resume writes the sweep's end.
    later = [sweeps.driver_started(plan, hours), sweeps.trial_ended(0, hours + 2)]
    sweeps.write_events(plan, [*before, *later, sweeps.driver_ended(2 * hours, settled=True)])
    store = FakeStore()
    _writer(plan, store).catch_up()
    trial, own = store.of_trial(0), store.of_trial(None)
    assert (store.ends[trial.run_id], trial.tags["orchestrator.run_s"]) == (sweeps.at(4), "3.000")
    assert (store.ends[own.run_id], own.tags["orchestrator.run_s"]) == (sweeps.at(hours + 2), "6.000")
