"""Sweeps over a real local Ray, with runs that train nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.processes import find_processes
from orchestrator.errors import UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.driver import FINISHED, SweepOutcome, extend, resume, run_sweep
from orchestrator.sweep.hooks import Hooks
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import (
    DriverEnded,
    EpochReported,
    Event,
    SweepPlanned,
    TrialEnded,
    TrialSetAside,
    TrialStarted,
)
from orchestrator.sweep_folder.journal import follow, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState
from orchestrator.sweep_folder.restore import restore_sweep
from orchestrator.trials import director
from orchestrator.trials.director import Director
from orchestrator.writable import ray_base_dir
from search_spaces.ranges import Range
from tests.kit.drivers import ID, Driver, events, journal
from tests.kit.trivial_run import RESUMED_FROM, TrivialRun, TrivialRuns
from tests.kit.trivial_sweep import trivial_hooks, trivial_plan
from training.config.run import TrainConfig
from training.metric_names import VAL_MAP

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SECRETS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"),
    *("AZURE_STORAGE_CONNECTION_STRING", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "NCCL_RAS_ADDR", "TORCHFT_LIGHTHOUSE"),
)


def quietly(hooks: Hooks, **how: Any) -> DriveOptions:
    return DriveOptions(hooks=hooks, progress=False, **how)


def sweep(plan: SweepPlan, runs: TrivialRuns | None = None) -> SweepOutcome:
    return run_sweep(plan, quietly(trivial_hooks(runs or TrivialRuns(), tracking=False)))


def check_whole(sweep_id: str, trials: int, epochs: int) -> None:
    """Check that every trial has ended once, and every epoch of it is there once, without a gap."""
    state = replay(journal(sweep_id))
    assert sorted(state.records) == list(range(trials))
    assert all(record.ended for record in state.records.values())
    assert max(Counter((event.trial, event.epoch) for event in events(EpochReported, sweep_id)).values()) == 1
    assert max(Counter(event.trial for event in events(TrialEnded, sweep_id)).values()) == 1
    for record in state.records.values():
        assert sorted(record.metrics) == list(range(1, record.last_epoch + 1))
        assert (record.state is TrialState.COMPLETE) == (record.last_epoch == epochs)


@pytest.fixture
def driver() -> Iterator[type[Driver]]:
    yield Driver
    for process in find_processes(sweep_dir(ID)):
        process.kill()


def test_a_sweep_runs_to_its_end_and_is_extended_without_a_word_from_ray(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = sweep(trivial_plan(ID, trials=8, epochs=6))
    assert outcome.state == FINISHED
    check_whole(ID, trials=8, epochs=6)
    states = Counter(record.state for record in outcome.records)
    assert states[TrialState.COMPLETE] >= 1
    assert states[TrialState.PRUNED] >= 1
    assert outcome.best is not None
    assert outcome.records[0].params == {"method.spbc_weight": 0.5, "method.reg_weight": 0.1}
    assert [type(event) for event in follow(journal())[0]][:: len(follow(journal())[0]) - 1] == [
        SweepPlanned,
        DriverEnded,
    ]
    assert outcome.records[0].metrics[1][VAL_MAP] == pytest.approx(65.0)
    # Trials ran in two actors, not in eight; on a busy machine the first may be done with all before the second is up.
    assert len({event.pid for event in events(EpochReported) if event.pid}) <= 2
    # What is left: the winner's checkpoint, and its artifacts for the tracker.
    assert [path.name for path in (sweep_dir(ID) / "checkpoints").iterdir()] == [f"t{outcome.best.trial:04d}"]
    assert (sweep_dir(ID) / "spool" / f"t{outcome.best.trial:04d}" / "score.txt").exists()
    assert not (sweep_dir(ID) / ".ray").exists()
    # Among the temporary files of the system there is nothing of its Ray.
    session = f"session_*_{os.getpid()}"
    assert [*ray_base_dir().glob(f"ray/{session}"), *ray_base_dir().glob(f"spml-*/r/{session}")] == []
    assert find_processes(sweep_dir(ID)) == []
    check_extension(outcome.records)
    assert capfd.readouterr() == ("", "")


def check_extension(before: tuple[TrialRecord, ...]) -> None:
    """Extend a finished sweep of 8 trials by two: with other data only if that is allowed."""
    hooks = trivial_hooks(TrivialRuns(), tracking=False)
    other = replace(hooks, prepare_inputs=lambda config, say: {"data_hash": "other"})
    with pytest.raises(UserError, match=r"data_hash was trivial and is other.*--allow-changed"):
        extend(ID, 2, quietly(other))
    assert len(replay(journal()).records) == replay(journal()).num_trials == 8
    outcome = extend(ID, 2, quietly(other, allow_changed=True))
    assert outcome.records[:8] == before
    check_whole(ID, trials=10, epochs=6)
    size = journal().stat().st_size
    assert resume(ID, quietly(hooks)).state == FINISHED  # nothing is left: Ray is not even started
    assert journal().stat().st_size == size


def describe_overdue(self: Director, trial: int) -> str | None:
    """Say that trial 2 is overdue once it hangs, which is in its second epoch."""
    record = self._journal.state.records[trial]
    return "took longer than 8 s" if trial == 2 and record.last_epoch == 1 and not record.ended else None


def test_failing_trials_do_not_end_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that dies, one whose loss is not finite, one that hangs, and two that go well, one after another.
    ranges = {"method.spbc_weight": Range(type="float", low=0, high=2, num=5)}
    plan = trivial_plan(
        ID, trials=5, epochs=3, ranges=ranges, start_from=(), sampler="grid", scheduler="none", concurrency=1
    )
    # Each death costs the start of a process, and a limit its time: the director's own tests count both.
    monkeypatch.setattr(director, "MAX_LOSSES", 3)
    monkeypatch.setattr(Director, "_describe_overdue", describe_overdue)
    outcome = sweep(plan, TrivialRuns(die_below=0.25, nan_below=0.75, hang_below=1.25))
    died, diverged, hung, *others = outcome.records
    assert (died.state, died.cause, died.attempts) == (TrialState.FAILED, Cause.LOST, 3)
    assert died.message is not None
    assert "exit" in died.message.lower()
    assert died.last_epoch == 1
    assert (diverged.state, diverged.cause, diverged.attempts) == (TrialState.FAILED, Cause.NAN, 1)
    assert diverged.message == "The loss is not finite at epoch 2, step 1: bce=nan"
    assert "Traceback" in (sweep_dir(ID) / "errors" / "t0001.txt").read_text()
    assert (hung.state, hung.cause, hung.message) == (TrialState.FAILED, Cause.TIMEOUT, "took longer than 8 s")
    assert [record.state for record in others] == [TrialState.COMPLETE] * 2
    assert outcome.state == FINISHED


@pytest.mark.long
def test_killed_in_the_middle_of_a_screen_the_best_trials_go_on_from_their_checkpoints(driver: type[Driver]) -> None:
    screen = json.dumps({"scheduler": "screen", "grace_epochs": 2, "keep": 3})
    told = ["--trials", "12", "--epochs", "4", "--changes", screen, "--runs", json.dumps({"tell_start": True})]
    first = driver(*told, "--epoch-s", "0.2")
    first.wait_for(TrialSetAside, 4)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    killed = replay(journal())
    assert any(record.state is TrialState.SET_ASIDE for record in killed.records.values())
    code, output = driver(*told, "--epoch-s", "0.0").end()
    assert code == 0, output
    check_whole(ID, trials=12, epochs=4)
    records = replay(journal()).records
    ranked = sorted(records.values(), key=lambda record: -record.metrics[2][VAL_MAP])
    assert [record.state for record in ranked] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED] * 9
    assert {record.last_epoch for record in ranked[3:]} == {2}
    went_on = [record for record in ranked[:3] if record.set_aside_after]
    assert went_on
    assert all(record.metrics[3][RESUMED_FROM] == 2 for record in went_on), "no epoch was trained twice"


class DieWhenReused:
    """Kills a process that gets a second trial, before that trial begins."""

    def __init__(self) -> None:
        self.used = False

    def __call__(self, config: TrainConfig, storage: str) -> TrivialRun:
        if self.used:
            os._exit(1)
        self.used = True
        return TrivialRuns()(config, storage)


@pytest.mark.long
def test_a_process_that_dies_between_two_trials_costs_neither() -> None:
    plan = trivial_plan(ID, trials=3, epochs=2, concurrency=1, scheduler="none")
    hooks = replace(trivial_hooks(TrivialRuns(), tracking=False), make_run=DieWhenReused())
    outcome = run_sweep(plan, quietly(hooks))
    assert [(record.state, record.attempts) for record in outcome.records] == [
        (TrialState.COMPLETE, attempts) for attempts in (1, 2, 2)
    ]
    check_whole(ID, trials=3, epochs=2)


@pytest.mark.long
def test_one_slot_serves_trials_that_are_cut_at_their_first_report() -> None:
    outcome = sweep(trivial_plan(ID, trials=6, epochs=3, concurrency=1))
    assert [record.state for record in outcome.records].count(TrialState.PRUNED) >= 2
    check_whole(ID, trials=6, epochs=3)


def test_killed_with_9_and_resumed_nothing_is_lost_doubled_or_left_behind(
    driver: type[Driver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"planted-{name}")
    backup = str(tmp_path / "backup")
    places = ("--backup", backup, "--storage", str(tmp_path / "checkpoints"))
    first = driver("--trials", "6", "--epochs", "6", "--epoch-s", "0.2", *places)
    first.wait_until(lambda: any(Path(backup).glob(f"{ID}/segment-*")))
    first.wait_for(EpochReported, 5)
    check_ports(first)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    killed = replay(journal())
    assert killed.driver_state == "INTERRUPTED"
    unfinished = {record.trial: record.params for record in killed.open_trials()}
    assert len(unfinished) == 2
    check_files(first)
    check_copy(backup, tmp_path / "meanwhile")

    second = driver()
    second.wait_for(TrialStarted, len(events(TrialStarted)) + 2)
    again = {event.trial: event.params for event in events(TrialStarted) if event.attempt == 2}
    assert again == unfinished
    code, output = second.end()
    assert code == 0, output
    check_whole(ID, trials=6, epochs=6)
    assert find_processes(sweep_dir(ID)) == []
    assert first.ray_folders() == [], "the next driver removes what a killed one left"
    assert check_copy(backup, tmp_path / "afterwards") == follow(journal())[0]


def check_ports(driver: Driver) -> None:
    """Check that a driver and its Ray listen on this machine's loopback alone."""
    listening = []
    for process in [psutil.Process(driver.process.pid), *driver.children()]:
        with suppress(psutil.NoSuchProcess):  # a worker that was started in advance may end
            connections = process.net_connections()
            listening += [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]
    assert len(listening) > 5
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def check_files(driver: Driver) -> None:
    """Check that the folder of a driver's Ray is private, and that no file there or in the sweep holds a secret."""
    (folder,) = driver.ray_folders()
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [Path(top, name) for root in (folder, sweep_dir(ID)) for top, _, names in os.walk(root) for name in names]
    assert any(path.name == "runtime_env_agent.log" for path in files)
    assert [str(path) for path in files if holds_secret(path)] == []


def holds_secret(path: Path) -> bool:
    with suppress(FileNotFoundError):  # what the killed driver has left still runs, and may remove a file
        return path.is_file() and b"planted-" in path.read_bytes()
    return False


def check_copy(backup: str, home: Path) -> Sequence[Event]:
    """Restore a backup into an empty home, and check that it is the beginning of the sweep; return its events."""
    events = follow(journal())[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_HOME", str(home))
        assert restore_sweep(backup) == (ID, backup)
        copied = follow(journal())[0]
    assert copied == events[: len(copied)]
    return copied


def test_a_signal_while_ray_starts_ends_it_as_later(driver: type[Driver]) -> None:
    first = driver("--trials", "2", "--epochs", "2")
    first.wait_until(partial(first.runs, "gcs_server"))
    check_ended(first, signal.SIGTERM)


@pytest.mark.long
def test_a_signal_at_any_moment_ends_it(driver: type[Driver]) -> None:
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, *(step / 2 for step in range(4, 25))):
        for number in (signal.SIGTERM, signal.SIGINT):
            first = driver("--trials", "4", "--epochs", "500", "--epoch-s", "0.1")
            first.await_begin()
            time.sleep(delay)
            check_ended(first, number)
    last = driver()
    last.wait_for(EpochReported)
    check_ended(last, signal.SIGTERM)


def check_ended(driver: Driver, number: signal.Signals) -> None:
    """Send a signal, and check that the driver ends with 130 and leaves nothing running and no file of Ray's."""
    code, output = driver.end(number)
    assert code == 130, output
    assert "Traceback" not in output
    assert find_processes(sweep_dir(ID)) == []
    assert driver.ray_folders() == []
    if journal().exists():
        replay(journal())  # raises if the signal came between a line and its checksum


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_it_cleanly(driver: type[Driver], number: signal.Signals) -> None:
    first = driver("--trials", "4", "--epochs", "20", "--epoch-s", "0.2")
    first.wait_for(EpochReported, 3)
    os.killpg(first.process.pid, number)  # a terminal, or a service manager, tells Ray's processes as well
    code, output = first.end()
    assert code == 130
    assert all(line.startswith(f"{ID}: ") for line in output.splitlines()), output
    assert replay(journal()).driver_state == "INTERRUPTED"
    assert find_processes(sweep_dir(ID)) == []


@pytest.mark.parametrize(
    ("victim", "number", "said"),
    [
        pytest.param("raylet", signal.SIGKILL, "the raylet was killed or hangs", marks=pytest.mark.long),
        pytest.param("raylet", signal.SIGSTOP, "the raylet was killed or hangs", marks=pytest.mark.long),
        pytest.param("gcs_server", signal.SIGKILL, "has not answered for 60 s", marks=pytest.mark.long),
        pytest.param("gcs_server", signal.SIGSTOP, "has not answered for 60 s", marks=pytest.mark.long),
    ],
)
def test_a_driver_whose_ray_is_gone_ends_with_the_way_to_go_on(
    driver: type[Driver], victim: str, number: signal.Signals, said: str
) -> None:
    first = driver("--trials", "2", "--epochs", "200", "--epoch-s", "0.5")
    first.wait_for(EpochReported, 3)
    for process in psutil.Process(first.process.pid).children(recursive=True):
        if process.name() == victim:
            process.send_signal(number)
    code, output = first.end()
    assert code == 1
    assert "Ray is gone: " in output
    assert said in output
    assert f"Continue: orchestrator resume {ID}" in output
    assert replay(journal()).driver_state == "INTERRUPTED"
    assert find_processes(sweep_dir(ID)) == []


def test_a_second_driver_is_refused() -> None:
    sweep_dir(ID).mkdir(parents=True)
    plan = trivial_plan("trivial-00000002", trials=1, epochs=1)
    sweep_dir(plan.id).mkdir()
    (sweep_dir(plan.id) / "plan.json").write_text(plan.to_json())
    with Lease(sweep_dir(plan.id)), pytest.raises(UserError, match=f"process {os.getpid()} "):
        resume(plan.id)


def test_a_run_of_one_point_cannot_be_extended() -> None:
    plan = trivial_plan(ID, trials=1, epochs=1, ranges={})
    sweep_dir(ID).mkdir(parents=True)
    (sweep_dir(ID) / "plan.json").write_text(plan.to_json())
    for num_more, message in ((0, r"at least \+1"), (1, "its space has 1 points")):
        with pytest.raises(UserError, match=message):
            extend(ID, num_more)


@pytest.mark.long
def test_a_driver_whose_sweep_was_stolen_stops_and_harms_nothing(driver: type[Driver]) -> None:
    first = driver("--trials", "4", "--epochs", "40", "--epoch-s", "0.3", "--machine", "another container")
    first.wait_for(EpochReported, 5)
    second = driver("--epoch-s", "0.1", "--steal-lease")
    code, output = first.end()
    assert code == 1
    assert f"This driver has lost the sweep: process {second.process.pid} on " in output
    code, output = second.end()
    assert code == 0, output
    check_whole(ID, trials=4, epochs=40)
    params = {(event.trial, json.dumps(event.params)) for event in events(TrialStarted)}
    assert len(params) == 4
    assert find_processes(sweep_dir(ID)) == []
    assert not (sweep_dir(ID) / "ray.session").exists()
