from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder import disk
from orchestrator.sweep_folder.disk import GIB, Janitor, checkpoint_uri, spool_artifacts, write_error
from orchestrator.sweep_folder.journal import SweepState
from orchestrator.sweep_folder.records import TrialRecord, TrialState
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
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture(params=["own folder", "storage"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> SweepPlan:
    return make_sweep(storage=None if request.param == "own folder" else f"file://{tmp_path}/bucket/")


def test_checkpoints_lie_with_the_sweep_or_under_its_id_in_the_storage(tmp_path: Path) -> None:
    assert checkpoint_uri(make_sweep()) == str(sweep_dir("digits-00000001") / "checkpoints")
    assert checkpoint_uri(make_sweep("digits-00000002", storage="s3://bucket/x/")) == "s3://bucket/x/digits-00000002"


def test_only_what_resume_and_the_winner_need_is_kept() -> None:
    plan = make_sweep()
    state = SweepState(records={4: record(4, TrialState.RUNNING)})
    for trial in range(5):
        save(plan, trial)
    janitor = Janitor(plan, state)
    janitor.start()
    janitor.trial_ended(record(0, TrialState.COMPLETE, 60.0))
    janitor.trial_ended(record(1, TrialState.PRUNED, 90.0))
    janitor.trial_ended(record(2, TrialState.COMPLETE, 70.0))
    janitor.trial_ended(record(3, TrialState.FAILED))
    janitor.stop()
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
    janitor = Janitor(plan, SweepState(records=records))
    janitor.start()
    janitor.stop()
    assert [folder.name for folder in local.iterdir()] == ["t0002"]


def test_the_cap_leaves_room_for_one_more_trial_as_large_as_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_MEASURE_S", 0.01)
    state = SweepState(records={0: record(0, TrialState.RUNNING), 1: record(1, TrialState.RUNNING)})
    plan = make_sweep(cap_gib=1e-12)
    save(plan, 0)
    size = sum(path.stat().st_size for path in Path(checkpoint_uri(plan)).rglob("*") if path.is_file())
    janitor = Janitor(plan, state)
    assert janitor.has_room()  # nothing is known yet
    janitor.start()
    wait_for(lambda: janitor.trial_bytes == size)
    assert not janitor.has_room()
    janitor.stop()
    roomy = Janitor(make_sweep("digits-00000002", cap_gib=4 * size / GIB), state)
    roomy.kept_bytes, roomy.trial_bytes = size, size
    assert roomy.has_room()
    roomy.kept_bytes += 1
    assert not roomy.has_room()


def test_trials_handed_out_at_once_count_before_they_are_measured() -> None:
    state = SweepState(records={0: record(0, TrialState.COMPLETE)})
    janitor = Janitor(make_sweep(cap_gib=2 * 1000 / GIB), state)
    janitor.trial_bytes = 1000
    assert janitor.has_room()
    state.records[1] = record(1, TrialState.RUNNING)
    assert janitor.has_room()
    state.records[2] = record(2, TrialState.RUNNING)
    assert not janitor.has_room()


def test_at_the_cap_what_a_trial_left_that_has_just_ended_goes_before_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_sweep(cap_gib=1e-6)  # 1073 bytes
    state = SweepState(records={0: record(0, TrialState.RUNNING)})
    folder = Path(disk.trial_uri(plan, 0))
    folder.mkdir(parents=True)
    (folder / "last").write_bytes(bytes(1000))
    janitor = Janitor(plan, state)
    delete = janitor._delete

    def delete_slowly(trial: int) -> None:  # as a remote storage does
        time.sleep(0.3)
        delete(trial)

    monkeypatch.setattr(janitor, "_delete", delete_slowly)
    monkeypatch.setattr(disk, "_MEASURE_S", 0.01)
    janitor.start()
    wait_for(lambda: janitor.trial_bytes == 1000)
    assert not janitor.has_room()
    state.records[0] = record(0, TrialState.PRUNED)
    state.records[1] = record(1, TrialState.COMPLETE)
    janitor.kept_bytes = 1000  # as measured before
    janitor._kept = {1}
    janitor.trial_ended(state.records[0])
    assert janitor.has_room()
    assert not folder.exists()
    janitor.stop()


def test_storage_that_cannot_be_reached_stops_nothing() -> None:
    plan = make_sweep(storage="file:///proc/nowhere")
    janitor = Janitor(plan, SweepState())
    janitor.start()
    janitor.trial_ended(record(0, TrialState.COMPLETE))
    janitor.stop()


def test_artifacts_appear_whole_and_replace_older_ones() -> None:
    plan = make_sweep()
    spool_artifacts(plan.id, 7, {"old.txt": b"1"})
    spool_artifacts(plan.id, 7, {"per_class_ap.parquet": b"2", "cam/cam.png": b"3"})
    spool = sweep_dir(plan.id) / "spool"
    files = {path.relative_to(spool).as_posix(): path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    assert files == {"t0007/per_class_ap.parquet": b"2", "t0007/cam/cam.png": b"3"}


@pytest.mark.parametrize(
    "write",
    [lambda: spool_artifacts("digits-00000001", 7, {"a": b"1"}), lambda: write_error("digits-00000001", 7, "x")],
)
def test_full_disk_stops_the_sweep_with_what_to_do(write: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(
        OrchestratorError, match=r"of trial 7 must be .*No space left on device.*orchestrator resume digits-00000001"
    ):
        write()


def test_tracebacks_are_kept_beside_the_journal() -> None:
    plan = make_sweep()
    assert write_error(plan.id, 3, "Traceback").read_text() == "Traceback"
    assert write_error(plan.id, 3, "at s3://key:hunter2@bucket").read_text() == "at s3://key:***@bucket"
