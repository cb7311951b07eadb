from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray import tune

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT, MakeRun, describe_failure, make_trainable
from orchestrator.trials.deaths import find_address
from tests.kit.scenes import random_batch
from tests.kit.sweeps import make_sweep
from tests.kit.trivial_run import TrivialRun, TrivialRuns
from training.errors import NonFiniteLossError, StepMemoryError
from training.loop.memory import memory_figures
from training.metric_names import VAL_MAP


@pytest.fixture
def plan() -> SweepPlan:
    return make_sweep()


@pytest.fixture(autouse=True)
def _scratch_for_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))


def handout(trial: int = 0, spbc: float = 1.0, **more: Any) -> dict[str, Handout]:
    return {HANDOUT: Handout(trial, {"method.spbc_weight": spbc}, handed_ms=int(time.time() * 1000) - 500, **more)}


def start(plan: SweepPlan, make_run: MakeRun, config: dict[str, Handout] | None = None) -> tune.Trainable:
    return make_trainable(plan, make_run)(config=config or handout())


def step(actor: tune.Trainable) -> TrialReport:
    report = actor.step()[REPORT]
    assert isinstance(report, TrialReport)
    return report


def test_a_trial_is_trained_saved_and_reported_epoch_by_epoch(plan: SweepPlan) -> None:
    actor = start(plan, TrivialRuns())
    reports = [step(actor) for _ in range(plan.epochs)]
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert reports[0].metrics[VAL_MAP] == pytest.approx(80 - 10 * 0.4 - 10)
    assert (Path(checkpoint_uri(plan)) / "t0000" / "last.json").exists()
    assert reports[0].pid == os.getpid()
    assert 0.5 <= (reports[0].queue_s or 0) < 60
    assert reports[1].pid is None


def test_a_trial_goes_on_from_its_checkpoint_and_says_its_epoch_again(plan: SweepPlan) -> None:
    first = start(plan, TrivialRuns())
    reports = [step(first), step(first)]
    again = start(plan, TrivialRuns(), handout(metrics={1: reports[0].metrics}))
    assert [step(again).epoch for _ in range(2)] == [2, 3]


def test_with_all_checkpoints_damaged_its_first_report_names_them(plan: SweepPlan) -> None:
    first = start(plan, TrivialRuns())
    step(first), step(first)
    again = step(start(plan, TrivialRuns()))
    assert (again.epoch, again.resumed_from, again.passed_over) == (2, 2, ())
    for path in (Path(checkpoint_uri(plan)) / "t0000").iterdir():
        path.write_text("{")
    damaged = start(plan, TrivialRuns())
    report = step(damaged)
    assert (report.epoch, report.resumed_from, report.passed_over) == (1, 0, ("last.json", "before.json"))
    assert step(damaged).passed_over == ()


def test_killed_at_its_last_epoch_it_says_that_epoch_again_with_its_artifacts(plan: SweepPlan) -> None:
    first = start(plan, TrivialRuns())
    last = [step(first) for _ in range(3)][-1]
    again = step(start(plan, TrivialRuns()))
    assert (again.epoch, again.metrics, again.artifacts) == (3, last.metrics, last.artifacts)
    assert list(again.artifacts) == ["score.txt"]


def test_only_a_trial_that_beats_the_best_so_far_draws_pictures(plan: SweepPlan) -> None:
    for trial, (best_value, expected) in enumerate([(None, True), (10.0, True), (99.0, False)]):
        actor = start(plan, TrivialRuns(), handout(trial, best_value=best_value))
        artifacts = [bool(step(actor).artifacts) for _ in range(3)]
        assert artifacts == [False, False, expected]


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_trial(
    plan: SweepPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: TrivialRun, folder: Path, title: str) -> None:
        raise OSError("no font")

    monkeypatch.setattr(TrivialRun, "write_artifacts", refuse)
    actor = start(plan, TrivialRuns())
    last = [step(actor) for _ in range(3)][-1]
    assert (last.epoch, last.cause) == (3, None)
    assert b"OSError: no font" in last.artifacts["artifacts_error.txt"]


def test_a_trial_after_another_in_one_actor_equals_one_in_a_fresh_actor(plan: SweepPlan) -> None:
    reused = start(plan, TrivialRuns())
    step(reused)
    assert reused.reset_config(handout(1, spbc=0.3))
    fresh = start(plan, TrivialRuns(keep=False), handout(1, spbc=0.3))
    expected = [step(fresh).metrics for _ in range(3)]  # first: it would find the other's checkpoints
    assert [step(reused).metrics for _ in range(3)] == expected


def test_the_next_trial_runs_in_the_actor_of_one_that_failed(plan: SweepPlan) -> None:
    actor = start(plan, TrivialRuns(nan_below=0.5), handout(spbc=0.1))
    assert step(actor).epoch == 1
    failed = step(actor)
    assert (failed.cause, failed.message) == (
        Cause.NAN,
        "The loss is not finite at epoch 2, step 1: bce=nan",
    )
    assert "Traceback" in failed.details
    actor.reset_config(handout(1))
    assert [step(actor).epoch for _ in range(2)] == [1, 2]


def test_a_run_that_cannot_be_built_is_a_failed_trial(plan: SweepPlan) -> None:
    def refuse(config: object, storage: str) -> TrivialRun:
        raise FileNotFoundError("no data here\nat all")

    failed = step(start(plan, refuse))
    assert (failed.cause, failed.message) == (Cause.ERROR, "FileNotFoundError: no data here")


def test_a_reader_of_the_data_that_was_killed_is_no_fault_of_the_trial(
    plan: SweepPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: TrivialRun) -> dict[str, float]:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(TrivialRun, "train_epoch", die)
    lost = step(start(plan, TrivialRuns()))
    assert lost.cause is Cause.LOST
    assert find_address(lost.details) == ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]


def test_params_out_of_range_are_a_failed_trial(plan: SweepPlan) -> None:
    failed = step(start(plan, TrivialRuns(), handout(spbc=-1.0)))
    assert failed.cause is Cause.ERROR
    assert "method.spbc_weight" in failed.message


def chained() -> Exception:
    try:
        try:
            raise NonFiniteLossError(3, 7, {"bce": float("inf")})
        except NonFiniteLossError as error:
            raise RuntimeError("epoch failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (chained(), Cause.NAN, "The loss is not finite at epoch 3, step 7: bce=inf"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            Cause.OOM,
            "OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (MemoryError(), Cause.OOM, "MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Cause.OOM, None),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), Cause.LOST, None),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), Cause.LOST, None),
        (RuntimeError("shapes differ"), Cause.ERROR, "RuntimeError: shapes differ"),
        (KeyError("optim.lr"), Cause.ERROR, "KeyError: 'optim.lr'"),
    ],
)
def test_failures_are_told_apart_with_what_began_them(error: Exception, cause: Cause, message: str | None) -> None:
    failure = describe_failure(error)
    assert failure.cause is cause
    assert message is None or failure.message == message


def test_a_step_out_of_memory_is_reported_with_its_figures() -> None:
    def run_out() -> None:
        with memory_figures(random_batch(4), epoch=2, step=7):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(StepMemoryError) as caught:
        run_out()
    failure = describe_failure(caught.value)
    assert failure.cause is Cause.OOM
    assert failure.message is not None
    assert "at epoch 2, step 7 with batch=4, image_size=40" in failure.message
    assert "orchestrator max-batch SPACE" in failure.message
    assert failure.details is not None
    assert "Tried to allocate 2.00 GiB" in failure.details


def test_a_process_whose_gpu_is_beyond_use_ends_at_the_next_trial(
    plan: SweepPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    lost = SimpleNamespace(
        is_initialized=lambda: True, synchronize=synchronize, empty_cache=lambda: None, is_available=lambda: False
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=lost, OutOfMemoryError=torch.OutOfMemoryError))
    actor = start(plan, TrivialRuns(nan_below=0.5), handout(spbc=0.1))
    step(actor)
    assert step(actor).cause is Cause.NAN
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    actor.reset_config(handout(1))
    assert ends == [1]


def test_every_sweep_has_a_class_of_its_own(plan: SweepPlan) -> None:
    other = make_sweep("digits-00000002")
    assert make_trainable(plan).__name__ == "trial_digits-00000001"
    assert make_trainable(other).__name__ == "trial_digits-00000002"
