"""Test what a driver keeps for the next one, whenever it is stopped. Ray is not started."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import TypeVar

import pytest

from orchestrator.errors import UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep import driver as driver_module
from orchestrator.sweep.driver import FINISHED, INTERRUPTED, extend, resume, run_sweep
from orchestrator.sweep.guard import Guard
from orchestrator.sweep.hooks import Hooks, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import follow, replay
from orchestrator.sweep_folder.state import SweepState
from search_spaces.ranges import Range
from tests.kit.sweeps import journal_path, make_sweep, whole_sweep, write_events
from training.config.run import TrainConfig

T = TypeVar("T")


def stop_early(config: TrainConfig, say: Callable[[str], None]) -> dict[str, str]:
    """Stand in for Ctrl-C while Ray starts and the data are prepared."""
    raise KeyboardInterrupt


RANGES = {"method.cam_threshold": Range(type="float", low=0, high=1)}
OPTIONS = DriveOptions(progress=False, hooks=Hooks(make_tracker=make_no_tracker, prepare_inputs=stop_early))


class LateFuture(Future[T]):
    """Finishes at the very end of a wait: the wait has expired by the time the result is there."""

    def result(self, timeout: float | None = None) -> T:
        found = super().result()
        if timeout is not None:
            raise TimeoutError
        return found


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start_ray", "stop_ray"):
        monkeypatch.setattr(driver_module, name, lambda *args, **options: None)
    # Whoever asks a Ray that does not run starts one in this process, and other tests count its children.
    for name in ("start", "stop"):
        monkeypatch.setattr(Guard, name, lambda *args, **options: None)


def make_finished() -> SweepPlan:
    plan = make_sweep(num_trials=4, ranges=RANGES)
    write_events(plan, whole_sweep(plan))
    return plan


def test_extension_that_was_stopped_while_it_started_is_run_by_resume() -> None:
    plan = make_finished()
    assert extend(plan.id, 3, OPTIONS).state == INTERRUPTED
    assert replay(journal_path(plan)).num_trials == 7
    assert replay(journal_path(plan)).driver_state == INTERRUPTED
    # It is the resume that the program prints which must run them: it finds the sweep unfinished.
    assert resume(plan.id, OPTIONS).state == INTERRUPTED
    assert replay(journal_path(plan)).num_trials == 7


@pytest.mark.parametrize(
    ("num_more", "command"),
    [(0, "resume digits-00000001"), (3, "extend digits-00000001 --trials +3")],
)
def test_refusal_names_the_whole_command_that_allows_it(num_more: int, command: str) -> None:
    plan = make_sweep(num_trials=5, ranges=RANGES)
    write_events(plan, whole_sweep(plan))
    hooks = Hooks(make_tracker=make_no_tracker, prepare_inputs=lambda config, say: {"data_hash": "other"})
    options = DriveOptions(progress=False, hooks=hooks)
    with pytest.raises(UserError, match=re.escape(f"orchestrator {command} --allow-changed")):
        extend(plan.id, num_more, options) if num_more else resume(plan.id, options)
    assert replay(journal_path(plan)).num_trials == 5


def test_a_sweep_goes_on_with_its_data_where_the_home_is_now_and_with_no_other_data(home: Path) -> None:
    base = {**make_sweep("other-00000001").base, "data.name": "birds", "data.store": "/former/data/birds"}
    plan = make_sweep(num_trials=5, ranges=RANGES, dataset="birds", base=base)
    write_events(plan, whole_sweep(plan))
    (home / "data" / "birds").mkdir(parents=True)
    (home / "data" / "birds" / "manifest.json").write_text('{"schema_version": 1, "data_hash": "ab"}')
    places: list[str | None] = []

    def prepare_inputs(config: TrainConfig, say: Callable[[str], None]) -> dict[str, str]:
        places.append(config.data.store)
        return {"data_hash": "other"}

    options = DriveOptions(progress=False, hooks=Hooks(make_tracker=make_no_tracker, prepare_inputs=prepare_inputs))
    with pytest.raises(UserError, match="was started under other conditions: .*data_hash was da7a and is other"):
        resume(plan.id, options)
    assert places == [str(home / "data" / "birds")]


def test_backup_of_a_sweep_that_was_stopped_while_it_started_is_known_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_sweep("other-00000001", num_trials=4)
    new = replace(plan, id="digits-00000002")
    assert run_sweep(new, replace(OPTIONS, backup=str(tmp_path / "backup"))).state == INTERRUPTED
    asked: list[str | None] = []
    real = driver_module._make_backup

    def make_backup(plan, journal, lease, options):  # type: ignore[no-untyped-def]
        asked.append(options.backup)
        return real(plan, journal, lease, options)

    monkeypatch.setattr(driver_module, "_make_backup", make_backup)
    resume(new.id, OPTIONS)
    assert asked == [str(tmp_path / "backup")]
    assert load_plan(new.id).backup == str(tmp_path / "backup")
    assert sweep_dir(new.id).is_dir()


def test_what_finishes_as_its_wait_expires_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_background(function: Callable[[], T]) -> Future[T]:
        future: LateFuture[T] = LateFuture()
        Timer(0.05, lambda: future.set_result(function())).start()
        return future

    monkeypatch.setattr(driver_module, "in_background", in_background)
    monkeypatch.setattr(driver_module._Driver, "_run_trials", lambda driver: None)
    plan = replace(make_sweep("other-00000001"), id="digits-00000002")
    hooks = Hooks(make_tracker=make_no_tracker, prepare_inputs=lambda config, say: {"data_hash": "da7a"})
    assert run_sweep(plan, DriveOptions(progress=False, hooks=hooks)).state == FINISHED
    assert replay(journal_path(plan)).provenance["data_hash"] == "da7a"


def test_time_out_of_the_work_itself_is_raised_and_leaves_no_new_folder() -> None:
    def prepare_inputs(config: TrainConfig, say: Callable[[str], None]) -> dict[str, str]:
        raise TimeoutError("the photos did not come")

    plan = replace(make_sweep("other-00000001"), id="digits-00000002")
    options = DriveOptions(progress=False, hooks=Hooks(make_tracker=make_no_tracker, prepare_inputs=prepare_inputs))
    with pytest.raises(TimeoutError, match="the photos did not come"):
        run_sweep(plan, options)
    assert not sweep_dir(plan.id).exists()


def test_a_resume_that_only_writes_what_a_killed_driver_did_not_adds_no_time() -> None:
    plan = make_sweep(num_trials=4, ranges=RANGES)
    write_events(plan, whole_sweep(plan)[:-1])  # years ago: killed after its last trial
    assert replay(journal_path(plan)).driver_state == INTERRUPTED
    assert resume(plan.id, OPTIONS).state == FINISHED
    state = replay(journal_path(plan))
    assert (state.driver_state, state.driven_s()) == (FINISHED, 7.5 + 4.1)


def test_an_extension_that_was_stopped_while_it_started_adds_no_time_to_a_killed_driver() -> None:
    plan = make_sweep(num_trials=4, ranges=RANGES)
    write_events(plan, whole_sweep(plan)[:-1])
    assert extend(plan.id, 3, OPTIONS).state == INTERRUPTED
    assert replay(journal_path(plan)).driven_s() == 7.5 + 4.1


def test_an_extension_is_recorded_before_anything_slow_starts_and_withdrawn_if_that_fails() -> None:
    plan, seen = make_finished(), list[tuple[int, str | None]]()
    before = replay(journal_path(plan))

    def prepare_inputs(config: TrainConfig, say: Callable[[str], None]) -> dict[str, str]:
        state = SweepState()
        for event in follow(journal_path(plan))[0]:
            state.apply(event)
        seen.append((state.num_trials, state.driver_state))  # what a kill at this moment leaves
        raise TimeoutError("the photos did not come")

    options = DriveOptions(progress=False, hooks=Hooks(make_tracker=make_no_tracker, prepare_inputs=prepare_inputs))
    with pytest.raises(TimeoutError, match="the photos did not come"):
        extend(plan.id, 3, options)
    assert seen == [(7, INTERRUPTED)]
    after = replay(journal_path(plan))
    assert (after.num_trials, after.driver_state) == (before.num_trials, before.driver_state) == (4, FINISHED)
