"""Runs a trial of one worker in a Ray actor: params -> TrainConfig -> TrainingRun, one epoch and one report at a time.

An actor runs one trial after another (``reset_config``), because importing torch takes seconds. An error in a trial is
reported as the trial's failure, so that the actor survives it; only the death of the process is left for Ray to report.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from orchestrator.home import trial_name
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport
from orchestrator.trials.placement import request_resources
from training.config.run import TrainConfig
from training.errors import NonFiniteLossError, StepMemoryError, first_line
from training.loop.stepping import Run, collect_artifacts
from training.machine import name_device
from training.selection import choose_value

# EROFS too, because Linux makes a disk with errors read-only.
_STORAGE_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
HANDOUT = "handout"
"""The only key of a trial's Tune config: a Handout."""
REPORT = "report"
"""The only key of a result: a TrialReport. Tune passes both on without looking inside."""

MakeRun = Callable[[TrainConfig, str], Run]


def make_training_run(config: TrainConfig, storage: str) -> Run:
    """Build a real run; this is where an actor imports torch."""
    from training.loop.run import TrainingRun

    return TrainingRun(config, storage=storage)


def make_trainable(plan: SweepPlan, make_run: MakeRun = make_training_run) -> type[tune.Trainable]:
    """Return the plan's own Trainable class, under a name that no other sweep on the cluster has."""
    # Ray registers trainables by name for the whole cluster. The folder is resolved here, because the actor's home may
    # be another one than the driver's.
    members = {"plan": plan, "make_run": staticmethod(make_run), "checkpoints": checkpoint_uri(plan)}
    return type(f"trial_{plan.id}", (_Trial,), members)


class _Trial(tune.Trainable):
    plan: ClassVar[SweepPlan]
    checkpoints: ClassVar[str]
    make_run: ClassVar[MakeRun]

    _run: Run | None = None
    _resumed = False
    _poisoned = False

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        return request_resources(cls.plan, config.get(HANDOUT))

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            return {REPORT: self._next_report()}
        except Exception as error:
            self._poisoned = _device_is_lost()
            return {REPORT: _with_address(describe_failure(error))}

    def cleanup(self) -> None:
        self._run = None

    def _begin(self, config: dict[str, Any]) -> None:
        if self._poisoned:
            # Nothing can run on this process's GPU any longer. Tune starts another one, and the director hands the
            # trial out again.
            os._exit(1)
        self._handout: Handout = config[HANDOUT]
        self._metrics = dict(self._handout.metrics)
        self._run = None
        self._began = time.time()

    def _build(self) -> Run:
        """Build the run.

        This is done in the first step, because nothing watches for a hang while Tune sets up a trial.
        """
        _free_device()
        if self.plan.resources.gpus_per_worker:
            _require_gpu()
        run = type(self).make_run(trial_config(self.plan, self._handout.params), self._checkpoint_uri())
        self._resumed = run.resume()
        self._first: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": name_device(),
            "queue_s": round(max(0.0, self._began - self._handout.handed_ms / 1000), 3),
            "start_s": round(time.time() - self._began, 3),
            "resumed_from": run.epoch if self._resumed else 0,
            "passed_over": run.passed_over,
        }
        return run

    def _next_report(self) -> TrialReport:
        if self._run is None:
            self._run = self._build()
        run = self._run
        if self._resumed:
            # A kill may have come between this epoch's checkpoint and its report, so report it again.
            self._resumed = False
        else:
            run.train_epoch()
            run.save()
        metrics = {name: float(value) for name, value in run.metrics.items()}
        self._metrics[run.epoch] = metrics
        artifacts = (
            collect_artifacts(run, f"{self.plan.id}, trial {self._handout.trial}")
            if run.finished and self._leads()
            else {}
        )
        # Only the first report of an attempt has them.
        first, self._first = self._first, {}
        return TrialReport(run.epoch, metrics, artifacts=artifacts, **first)

    def _leads(self) -> bool:
        """Return whether this trial beats the best one at its start; only then are its pictures worth drawing."""
        value = choose_value(self._metrics, self.plan.protocol)
        return value is not None and (self._handout.best_value is None or value > self._handout.best_value)

    def _checkpoint_uri(self) -> str:
        return f"{self.checkpoints}/{trial_name(self._handout.trial)}"


def describe_failure(error: BaseException) -> TrialReport:
    """Return the report of a failure: its cause, and the first line of the error that led to it."""
    origin = error
    # The way Python prints it: the explicit cause, else what was being handled, unless `from None` hides that.
    while (earlier := origin.__cause__ or (None if origin.__suppress_context__ else origin.__context__)) is not None:
        origin = earlier
    # If a step runs out of memory, our own message has the figures; torch's stays in the details.
    origin = error if isinstance(error, StepMemoryError) else origin
    ours = isinstance(origin, NonFiniteLossError | StepMemoryError) or not str(origin).strip()
    message = first_line(origin) if ours else f"{type(origin).__name__}: {first_line(origin)}"
    details = "".join(traceback.format_exception(error))
    storage_full = isinstance(origin, OSError) and origin.errno in _STORAGE_FULL
    return TrialReport(cause=_cause(error, origin), message=message, details=details, storage_full=storage_full)


def _with_address(failure: TrialReport) -> TrialReport:
    """Add the node's address to the report of a dead process; the driver looks there for the reason."""
    if failure.cause is not Cause.LOST:
        return failure
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return replace(failure, details=f"{failure.details}\nip: {address}\n")


def _cause(*errors: BaseException) -> Cause:
    if any(isinstance(error, NonFiniteLossError) for error in errors):
        return Cause.NAN
    if any(_is_out_of_memory(error) for error in errors):
        return Cause.OOM
    return Cause.LOST if any(_lost_a_reader(error) for error in errors) else Cause.ERROR


def _lost_a_reader(error: BaseException) -> bool:
    """Return whether a process that reads the data was killed."""
    said = str(error)  # torch's DataLoader raises a plain RuntimeError
    return (
        isinstance(error, RuntimeError)
        and said.startswith("DataLoader worker")
        and ("by signal" in said or "unexpectedly" in said)
    )


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError | StepMemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    ):
        return True
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _require_gpu() -> None:
    """Refuse to train on the CPU what was to run on a GPU: it would take days, and nobody would notice.

    Raises:
        RuntimeError: Torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(
            f"Ray assigned a GPU to this trial, but torch {torch.__version__} sees none on {socket.gethostname()}. "
            "Look at the driver and at torch's build with: orchestrator doctor"
        )


def _device_is_lost() -> bool:
    """Return whether this process's CUDA context can no longer be used, as after an illegal memory access."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        # An error that has broken the context is raised again by every later call.
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _free_device() -> None:
    """Free the GPU memory of the previous trial, which reference cycles and torch's cache may still hold."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
