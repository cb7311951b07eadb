from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.signals import StopSignals
from orchestrator.sweep import guard as guarding
from orchestrator.sweep.guard import STALL_S, Guard, give_up
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.waiting import Waiting, read_waiting


def test_a_driver_that_takes_no_steps_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    plan = make_plan(PlanRequest("digits", num_cpus=1, num_gpus=0))
    guard = Guard(plan, tmp_path, DriveOptions("auto"), StopSignals())
    assert guard.describe_stall() is None, "trials have not begun"
    guard.note_step()
    now[0] = STALL_S - 1
    assert guard.describe_stall() is None
    now[0] = STALL_S + 1
    said = guard.describe_stall()
    assert said is not None
    assert str(tmp_path) in said
    assert said.endswith(f"continue later: orchestrator resume {plan.id} --address auto")
    guard.note_step()
    assert guard.describe_stall() is None
    now[0] *= 3
    guard.note_end()
    assert guard.describe_stall() is None
    assert guard.describe_shortage() is guard.describe_loss() is None


def test_trials_that_have_waited_for_a_while_are_named_with_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    plan = make_plan(PlanRequest("digits", num_cpus=1, num_gpus=0))
    guard = Guard(plan, tmp_path, DriveOptions("auto"), StopSignals())
    guard._watch._nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": False, "Resources": {"CPU": 4.0}}]
    waiting: list[tuple[int, int] | None] = [(3, 990_000)]
    guard.watch_waiting(lambda: waiting[0])
    assert (guard.describe_waiting(), read_waiting(tmp_path)) == (None, None), "for 10 s, as every trial does"
    now[0] += 30
    what = "1 worker x 1 CPU each; 0 of 8 CPUs of the cluster are free"
    assert guard.describe_waiting() == f"3 trials cannot start yet: waiting for {what}"
    assert read_waiting(tmp_path) == Waiting(3, 990_000, what)
    waiting[0] = None
    assert (guard.describe_waiting(), read_waiting(tmp_path)) == (None, None)


def test_a_driver_that_hangs_ends_its_ray_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(guarding, "kill_local_ray", lambda: ended.append(True))
    plan = make_plan(PlanRequest("digits", num_cpus=1, num_gpus=0))
    give_up(plan, DriveOptions())
    assert ended == [True]
    assert capsys.readouterr().err == f"interrupted. Continue: orchestrator resume {plan.id}\n"
