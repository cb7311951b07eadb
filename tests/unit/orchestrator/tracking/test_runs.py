"""Test writing a journal to MLflow: exactly once, whichever call the writer dies at; and what MLflow gets."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep_folder.events import ChampionSet, Event, PromotionDecided, TestOpened
from orchestrator.sweep_folder.ledger import HEAD_FILE, LEDGER_FILE
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.tracking.run_tags import PARENT_TAG, TRIAL_TAG
from orchestrator.tracking.runs import Point, RunsWriter, wall_times
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
            store.names[run_id],
            store.datasets.get(run_id),
            run.tags | {PARENT_TAG: ""},
        )
        for run_id, run in store.runs.items()
    ]
    rows = sorted((-1 if names[row[0]] is None else names[row[0]], *row[1:]) for row in store.rows)
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
    assert store.files[run.run_id] == {"space.yaml", "plan.json", "leaderboard.json"}
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


def test_a_trials_score_is_a_metric_of_its_own_at_the_chosen_epoch(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    # Trial 0 reports 60, 70 and 65: the last value that MLflow gets is the one at the chosen epoch.
    assert store.epochs(0, "chosen/val/mAP") == [1, 2]
    assert [store.of_trial(trial).metrics.get("chosen/val/mAP") for trial in range(4)] == [70.0, 40.0, None, 80.0]


def test_a_score_that_is_no_number_is_left_out(plan: SweepPlan) -> None:
    events = [sweeps.driver_started(plan), sweeps.trial_started(0, 1), sweeps.epoch_reported(0, 1, 2, math.nan)]
    sweeps.write_events(plan, events)
    store = FakeStore()
    _writer(plan, store).catch_up()
    assert (store.epochs(0), store.epochs(0, "chosen/val/mAP")) == ([1], [])


def test_a_sweeps_run_follows_what_it_reached_and_spent(plan: SweepPlan) -> None:
    plan = sweeps.make_sweep("digits-00000002", resources=Resources(workers=2, gpus_per_worker=0.5))
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    own = store.of_trial(None)
    points = sorted((step, key, value) for run_id, key, step, _, value in store.rows if run_id == own.run_id)
    assert [(step, value) for step, key, value in points if key == "best/val/mAP"] == [(3, 70.0), (4, 80.0)]
    hours = [value for _, key, value in points if key == "gpu_hours"]
    # Pruned after 3.1 s, failed after 1.3 s, COMPLETE after 4.85 s, and two attempts of 1.3 s and 3.1 s.
    assert hours == pytest.approx([3.1 / 3600, 4.4 / 3600, 9.25 / 3600, 13.65 / 3600])


def test_description_of_a_sweep_ranks_its_trials_and_says_what_is_next(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    note = store.of_trial(None).tags["mlflow.note.content"]
    first = f"| [t0003](#/{store.of_trial(3).run_id}) | 80.00 | 3/3 | COMPLETE |"
    assert first in note
    assert note.index(first) < note.index("| [t0000](")
    assert "FINISHED: 4 of 3 trials have ended (2 complete, 1 pruned, 1 failed)." in note
    assert f"orchestrator promote {plan.id}" in note
    table = json.loads(store.texts[store.of_trial(None).run_id, "leaderboard.json"])
    assert table["columns"][:4] == ["rank", "trial", "state", "val/mAP"]
    assert [row[:4] for row in table["data"][:2]] == [[1, 3, "COMPLETE", 80.0], [2, 0, "COMPLETE", 70.0]]
    assert json.loads(store.of_trial(None).tags["mlflow.loggedArtifacts"])[0]["path"] == "leaderboard.json"


def test_a_running_sweep_is_described_at_a_bounded_rate(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = FakeStore()
    writer = _writer(plan, store)
    seen = []
    for number, event in enumerate(sweeps.whole_sweep(plan)[:11]):
        sweeps.write_events(plan, [event])
        now[0] = number * 1.0
        writer.catch_up()
        seen.append(store.of_trial(None).tags.get("mlflow.note.content", ""))
    assert len(set(seen)) == 1  # as it was when its driver started
    now[0] = 60.0
    writer.catch_up()  # without a new event
    assert "RUNNING: 3 of 3 trials have ended" in store.of_trial(None).tags["mlflow.note.content"]


def test_a_description_that_somebody_changed_is_kept(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    own = store.of_trial(None)
    written = own.tags["mlflow.note.content"]
    own.tags["mlflow.note.content"] = f"Use this one!\n\n{written}"
    _writer(plan, store).catch_up()
    assert own.tags["mlflow.note.content"].startswith("Use this one!")


def test_runs_of_an_earlier_version_get_what_they_lack(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store, undisturbed = FakeStore(), FakeStore()
    for each in (store, undisturbed):
        _writer(plan, each).catch_up()
    ours = ("orchestrator.layout", "orchestrator.note_digest", "mlflow.note.content", "mlflow.runName")
    for run in store.runs.values():
        for tag in ours:
            run.tags.pop(tag, None)
        run.has_dataset, run.metrics = False, {}
    store.datasets.clear()
    for row in [row for row in store.rows if row[1].startswith(("chosen/", "best/", "cpu_hours", "trials_ended"))]:
        del store.rows[row]
    for _ in range(2):
        _writer(plan, store).catch_up()
        assert _contents(store) == _contents(undisturbed)


def test_a_dataset_is_named_with_its_digest_and_size(plan: SweepPlan) -> None:
    known = sweeps.PROVENANCE | {"data_hash": "5eed" * 16, "num_train": "120", "num_classes": "10"}
    events = [sweeps.driver_started(plan, provenance=known), sweeps.trial_started(0, 1), sweeps.trial_ended(0, 2)]
    sweeps.write_events(plan, events)
    store = FakeStore()
    _writer(plan, store).catch_up()
    used = [store.datasets[store.of_trial(trial).run_id] for trial in (None, 0)]
    assert used[0] == used[1]
    assert (used[0].name, used[0].digest) == ("digits", "5eed5eed5eed")
    assert used[0].counts == {"num_train": 120, "num_classes": 10}


def test_a_promotion_is_described_in_its_own_run_and_in_that_of_its_sweep(plan: SweepPlan) -> None:
    seeds = ({"loop.seed": 7}, {"loop.seed": 8})
    promotion = sweeps.make_sweep("digits-promote-0000000a", kind="promote", parent=plan.id, start_from=seeds)
    events: list[Event] = [sweeps.driver_started(promotion)]
    for trial, score in enumerate((71.0, 73.0)):
        events += [sweeps.trial_started(trial, 1, **seeds[trial]), sweeps.epoch_reported(trial, 1, 2, score)]
        events.append(sweeps.trial_ended(trial, 3))
    decided = PromotionDecided("PROMOTE", "no <champion> yet", ("world size 1 | 2",), "digits.x", time_ms=sweeps.at(5))
    opened = TestOpened({"0": {"test/mAP": 61.5}, "1": {"test/mAP": 62.5}}, {"0": 1, "1": 1}, time_ms=sweeps.at(6))
    champion = ChampionSet("digits.x/1", time_ms=sweeps.at(7))
    sweeps.write_events(promotion, [*events, sweeps.driver_ended(4), decided, opened, champion])
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    notes = []
    for each in (promotion, plan):
        store = FakeStore()
        _writer(each, store).catch_up()
        notes.append(store.of_trial(None).tags["mlflow.note.content"])
    for note in notes:
        assert "| **mean** | **72.00 ± 1.41** | **62.00 ± 0.71** |" in note
        assert "**PROMOTE**: no &lt;champion&gt; yet. Registered as `digits.x/1`." in note
    assert "orchestrator evaluate digits.x/1" in notes[0]
    assert "**Promotion** `digits-promote-0000000a`" in notes[1]


def test_what_matters_is_written_first_because_mlflow_lists_it_first(plan: SweepPlan) -> None:
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store = FakeStore()
    _writer(plan, store).catch_up()
    names = [name for run_id, name, step, _, _ in store.rows if (run_id, step) == (store.of_trial(3).run_id, 1)]
    assert names[:5] == ["chosen/val/mAP", "val/mAP", "val/observed_mAP", "epoch", "train/loss"]
