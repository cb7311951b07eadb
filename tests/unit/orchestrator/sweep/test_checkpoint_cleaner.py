from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.home import trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep import checkpoint_cleaner
from orchestrator.sweep.checkpoint_cleaner import GIB, CheckpointCleaner
from orchestrator.sweep_folder.checkpoints import checkpoint_uri, trial_uri
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from tests.kit.sweeps import make_sweep
from training.loop.checkpoint import CheckpointStore
from training.metric_names import VAL_MAP


def save(plan: SweepPlan, trial: int) -> None:
    CheckpointStore(f"{checkpoint_uri(plan)}/{trial_name(trial)}").save(
        {"weights": [0.0] * 100}, 1, best={"weights": [1.0]}
    )


def record(trial: int, state: TrialState, value: float = 50.0) -> TrialRecord:
    return TrialRecord(trial, {}, "tpe", started_ms=0, state=state, metrics={1: {VAL_MAP: value}})


def kept(plan: SweepPlan) -> dict[str, list[str]]:
    folders = sorted(Path(checkpoint_uri(plan)).iterdir())
    return {folder.name: sorted({path.name.partition("-")[0] for path in folder.iterdir()}) for folder in folders}


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture(params=["own folder", "storage"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> SweepPlan:
    return make_sweep(storage=None if request.param == "own folder" else f"file://{tmp_path}/bucket/")


def test_only_what_resume_and_the_winner_need_is_kept() -> None:
    plan = make_sweep()
    state = SweepState(records={4: record(4, TrialState.RUNNING)})
    for trial in range(5):
        save(plan, trial)
    cleaner = CheckpointCleaner(plan, state)
    cleaner.start()
    cleaner.trial_ended(record(0, TrialState.COMPLETE, 60.0))
    cleaner.trial_ended(record(1, TrialState.PRUNED, 90.0))
    cleaner.trial_ended(record(2, TrialState.COMPLETE, 70.0))
    cleaner.trial_ended(record(3, TrialState.FAILED))
    cleaner.stop()
    assert kept(plan) == {"t0002": ["best"], "t0004": ["best", "last"]}


def test_what_a_killed_driver_left_goes_at_the_next_start(plan: SweepPlan) -> None:
    records = {
        0: record(0, TrialState.PRUNED),
        1: record(1, TrialState.COMPLETE, 10.0),
        2: record(2, TrialState.COMPLETE, 20.0),
    }
    if plan.storage is not None:
        local = Path(plan.storage.removeprefix("file://")) / plan.id
        for trial in records:
            CheckpointStore(local / trial_name(trial)).save({"weights": [0.0]}, 1)
    else:
        local = Path(checkpoint_uri(plan))
        for trial in records:
            save(plan, trial)
    cleaner = CheckpointCleaner(plan, SweepState(records=records))
    cleaner.start()
    cleaner.stop()
    assert [folder.name for folder in local.iterdir()] == ["t0002"]


def test_the_cap_leaves_room_for_one_more_trial_as_large_as_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_cleaner, "_MEASURE_S", 0.01)
    state = SweepState(records={0: record(0, TrialState.RUNNING), 1: record(1, TrialState.RUNNING)})
    plan = make_sweep(cap_gib=1e-12)
    save(plan, 0)
    size = sum(path.stat().st_size for path in Path(checkpoint_uri(plan)).rglob("*") if path.is_file())
    cleaner = CheckpointCleaner(plan, state)
    assert cleaner.has_room()  # nothing is known yet
    cleaner.start()
    wait_for(lambda: cleaner.trial_bytes == size)
    assert not cleaner.has_room()
    cleaner.stop()
    roomy = CheckpointCleaner(make_sweep("digits-00000002", cap_gib=4 * size / GIB), state)
    roomy.kept_bytes, roomy.trial_bytes = size, size
    assert roomy.has_room()
    roomy.kept_bytes += 1
    assert not roomy.has_room()


def test_trials_handed_out_at_once_count_before_they_are_measured() -> None:
    state = SweepState(records={0: record(0, TrialState.COMPLETE)})
    cleaner = CheckpointCleaner(make_sweep(cap_gib=2 * 1000 / GIB), state)
    cleaner.trial_bytes = 1000
    assert cleaner.has_room()
    state.records[1] = record(1, TrialState.RUNNING)
    assert cleaner.has_room()
    state.records[2] = record(2, TrialState.RUNNING)
    assert not cleaner.has_room()


def test_at_the_cap_what_a_trial_left_that_has_just_ended_goes_before_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_sweep(cap_gib=1e-6)  # 1073 bytes
    state = SweepState(records={0: record(0, TrialState.RUNNING)})
    folder = Path(trial_uri(plan, 0))
    folder.mkdir(parents=True)
    (folder / "last").write_bytes(bytes(1000))
    monkeypatch.setattr(checkpoint_cleaner, "_MEASURE_S", 0.01)
    cleaner = CheckpointCleaner(plan, state)
    delete = cleaner._delete

    def delete_slowly(trial: int) -> None:  # as a remote storage does
        time.sleep(0.3)
        delete(trial)

    monkeypatch.setattr(cleaner, "_delete", delete_slowly)
    cleaner.start()
    wait_for(lambda: cleaner.trial_bytes == 1000)
    assert not cleaner.has_room()
    state.records[0] = record(0, TrialState.PRUNED)
    state.records[1] = record(1, TrialState.COMPLETE)
    cleaner.kept_bytes = 1000  # as measured before
    cleaner._kept = {1}
    cleaner.trial_ended(state.records[0])
    assert cleaner.has_room()
    assert not folder.exists()
    cleaner.stop()


def test_the_end_of_a_trial_does_not_measure_all_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(plan: SweepPlan, trial: int) -> int:
        measured.append(trial)
        time.sleep(0.005)  # as a remote storage does
        return 7

    monkeypatch.setattr(checkpoint_cleaner, "measure_checkpoints", measure)
    state = SweepState(records={trial: record(trial, TrialState.RUNNING) for trial in range(500)})
    cleaner = CheckpointCleaner(make_sweep(), state)
    for trial in range(500, 520):
        cleaner.trial_ended(record(trial, TrialState.PRUNED))
    cleaner.start()
    cleaner._ended.join()
    cleaner.stop()  # without waiting for the sizes of trials that were interrupted
    assert len(measured) < 100
    assert set(range(500, 520)) <= set(measured)


def test_storage_that_cannot_be_reached_stops_nothing() -> None:
    plan = make_sweep(storage="file:///proc/nowhere")
    cleaner = CheckpointCleaner(plan, SweepState())
    cleaner.start()
    cleaner.trial_ended(record(0, TrialState.COMPLETE))
    cleaner.stop()
