"""Test how an attempt over Ray Train workers ends: what is the run's own fault, and what is worth another try."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from orchestrator.ray_compat import worker_death_errors
from orchestrator.sweep_folder.records import Cause, TrialReport
from orchestrator.trials.workers import judge_end

RAISED = WorkerGroupError("[Rank 0 Error Snippet]:\nValueError: said", {0: ValueError("said")})
DIED = WorkerGroupError("[Rank 1 Error Snippet]:\nThe actor died.", {0: RuntimeError("gloo"), 1: ActorDiedError()})
FAILED_CHECK = worker_death_errors()[0]("Task was killed due to the node running low on memory.", ValueError())
MEMORY = WorkerGroupError("", {1: FAILED_CHECK})


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.OOM, Cause.NAN])
def test_what_the_first_worker_said_is_the_trials_own_failure(cause: Cause) -> None:
    said = TrialReport(cause=cause, message="said", details="Traceback")
    assert judge_end(said, RAISED) == said


def test_a_rank_that_died_makes_the_trial_lost_whatever_the_others_said() -> None:
    said = TrialReport(cause=Cause.ERROR, message="RuntimeError: something", details="")
    report = judge_end(said, DIED)
    assert report.cause is Cause.LOST
    assert report.details == str(ActorDiedError()), "in which the driver looks for the node"
    assert "died" in report.message or "killed" in report.message


def test_a_rank_that_hears_no_more_of_another_is_an_echo() -> None:
    said = TrialReport(
        cause=Cause.ERROR, message="RuntimeError: [gloo/transport/tcp] Connection closed by peer", details=""
    )
    assert judge_end(said, RAISED).cause is Cause.LOST


def test_a_rank_that_rays_memory_monitor_killed_is_out_of_memory() -> None:
    assert judge_end(None, MEMORY).cause is Cause.OOM


def test_a_group_that_ended_too_early_or_cannot_run_is_lost() -> None:
    assert judge_end(None, None) == TrialReport(cause=Cause.LOST, message="its workers ended before their run did")
    report = judge_end(None, ConnectionError("no such cluster"))
    assert (report.cause, report.message) == (Cause.LOST, "Ray Train failed: no such cluster")
