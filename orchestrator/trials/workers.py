"""Runs a trial on Ray Train workers: its actor starts and supervises them, and passes on rank 0's reports.

Ray Train retries nothing by itself. If a worker dies, the director hands the trial out again, and it continues from its
newest checkpoint on the nodes that are then up.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import PlacementGroupFactory

from orchestrator.home import sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.ray_compat import make_named_trainer, worker_death_errors
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT, MakeRun, describe_failure
from orchestrator.trials.deaths import describe_death
from orchestrator.trials.placement import group_name, remove_groups, request_resources

_POLL_S = 0.2
# How long workers may take to end by themselves. After that they lose their placement group, and with it their
# processes.
_END_S = 20.0
_ENVIRONMENT = {
    # How often the controller polls its workers. A start, a report and an end each wait for it, by default for 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_ECHOES = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""Words in the error of a rank whose peer is gone."""


def make_train_trainable(plan: SweepPlan, make_run: MakeRun | None = None) -> type[tune.Trainable]:
    """Return a Trainable class for trials on Ray Train, under a name that no other sweep on the cluster has.

    Args:
        plan: The sweep or promotion.
        make_run: Builds the run in place of ``TrainingRun`` (for tests).
    """
    # The folders are resolved here, because the actor's home may be another one than the driver's.
    checkpoints = checkpoint_uri(plan)
    scratch = str(sweep_dir(plan.id) / ".ray") if plan.storage is None else f"{checkpoints}/.ray"
    members = {
        "plan": plan,
        "make_run": make_run and staticmethod(make_run),
        "checkpoints": checkpoints,
        "scratch": scratch,
    }
    return type(f"train_trial_{plan.id}", (_TrainTrial,), members)


class _TrainTrial(tune.Trainable):
    plan: ClassVar[SweepPlan]
    checkpoints: ClassVar[str]
    scratch: ClassVar[str]
    make_run: ClassVar[MakeRun | None]

    _attempt: Attempt | None = None
    _failure: TrialReport | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        return request_resources(cls.plan, config.get(HANDOUT))

    def setup(self, config: dict[str, Any]) -> None:
        os.environ.update(_ENVIRONMENT)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._failure is not None:
            return {REPORT: self._failure}
        assert self._attempt is not None
        return {REPORT: self._attempt.next_report()}

    def cleanup(self) -> None:
        if self._attempt is not None:
            self._attempt.end()
            self._attempt = None

    def _begin(self, config: dict[str, Any]) -> None:
        self.cleanup()
        self._failure = None
        handout: Handout = config[HANDOUT]
        try:
            self._attempt = Attempt(self.plan, handout, self.checkpoints, self.scratch, type(self).make_run)
        except Exception as error:
            self._failure = describe_failure(error)


class Attempt:
    """One attempt at a trial, from the start of its workers to their end.

    Args:
        plan: The sweep or promotion.
        handout: The attempt.
        checkpoints: URI of the folder of all trials' checkpoints.
        scratch: URI of a folder for Ray Train's files; none of them is needed later.
        make_run: Builds the run in place of ``TrainingRun``.
    """

    def __init__(
        self, plan: SweepPlan, handout: Handout, checkpoints: str, scratch: str, make_run: MakeRun | None
    ) -> None:
        from training.ray_worker import Channel, Job

        name = trial_name(handout.trial)
        self._plan, self._scratch = plan, scratch
        self._group_name = group_name(plan.id, handout)
        self._channel: Any = ray.remote(Channel).options(num_cpus=0).remote()
        title = f"{plan.id}, {'run' if plan.kind == 'promote' else 'trial'} {handout.trial}"
        config = trial_config(plan, handout.params)
        self._job = Job(config, f"{checkpoints}/{name}", self._channel, handout.handed_ms, title, make_run)
        self._failure: TrialReport | None = None
        self._error: BaseException | None = None
        self._owes_answer = False
        # In a thread of its own, because fit() returns only at the end.
        self._fitting = threading.Thread(
            target=self._fit, args=(f"{name}-{handout.handed_ms}",), name=f"fit-{name}", daemon=True
        )
        self._fitting.start()

    def next_report(self) -> TrialReport:
        """Let the workers continue; return their next epoch, or how they ended."""
        self._answer(True)
        try:
            return self._wait_for_report()
        except RayError as error:  # the channel's process died
            self.end()
            return TrialReport(cause=Cause.LOST, message=_describe_loss(error))

    def end(self) -> None:
        """End the workers, asking them first, and release their resources."""
        with suppress(RayError):
            # Every message that still arrives is answered with "stop", until fit() has returned or the time is up.
            self._answer(False)
            taking = self._channel.take.remote()
            waited = 0.0
            while self._fitting.is_alive() and waited < _END_S:
                waited += _POLL_S
                if ray.wait([taking], timeout=_POLL_S)[0]:
                    self._channel.answer.remote(False)
                    taking = self._channel.take.remote()
        self._give_back()
        ray.kill(self._channel)

    def _wait_for_report(self) -> TrialReport:
        taking = self._channel.take.remote()
        while True:
            # Read before the wait, so that a message sent just before the end is still taken.
            over = not self._fitting.is_alive()
            if ray.wait([taking], timeout=_POLL_S)[0]:
                message = ray.get(taking)
                self._owes_answer = True
                if "error" not in message:
                    return TrialReport(**message)
                # Keep the first failure: those of the other ranks follow from it.
                self._failure = self._failure or replace(describe_failure(message["error"]), details=message["details"])
                self._answer(False)
                taking = self._channel.take.remote()
            elif over:
                self._give_back()
                return judge_end(self._failure, self._error)

    def _answer(self, goes_on: bool) -> None:
        if self._owes_answer:
            self._owes_answer = False
            self._channel.answer.remote(goes_on)

    def _give_back(self) -> None:
        with suppress(RayError):
            remove_groups(self._group_name)

    def _fit(self, name: str) -> None:
        try:
            self._make_trainer(name).fit()
        except BaseException as error:  # the other thread reports it
            self._error = error

    def _make_trainer(self, name: str) -> Any:
        from ray import train

        from training.ray_worker import train_worker

        job, resources = self._job, self._plan.resources
        per_worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        return make_named_trainer()(
            lambda: train_worker(job),
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={kind: float(amount) for kind, amount in per_worker.items() if amount},
            ),
            run_config=train.RunConfig(name=name, storage_path=self._scratch),
            group_name=self._group_name,
        )


def judge_end(failure: TrialReport | None, error: BaseException | None) -> TrialReport:
    """Return how an attempt that did not reach its last epoch ended.

    Args:
        failure: The report of the first worker that failed.
        error: The exception that ``fit()`` raised.

    Returns:
        LOST (or OOM, if the node's memory was the cause) if a worker died or lost contact with another; otherwise the
        worker's own failure.
    """
    from ray.train import TrainingFailedError

    died = _first_death(error)
    if died is not None:
        message, cause = describe_death(died)
        return TrialReport(cause=cause, message=message, details=str(died))
    if failure is not None and not _is_echo(failure):
        return failure
    message = failure.message if failure is not None else _describe_loss(error)
    if error is not None and not isinstance(error, TrainingFailedError):
        message = f"Ray Train failed: {message}"
    return TrialReport(cause=Cause.LOST, message=message)


def _first_death(error: BaseException | None) -> BaseException | None:
    """Return the error of the first worker whose process died; a worker that raised an error reports it itself."""
    failures = getattr(error, "worker_failures", {})
    kinds: tuple[type[Exception], ...] = (RayError, *worker_death_errors())
    return next((failures[rank] for rank in sorted(failures) if isinstance(failures[rank], kinds)), None)


def _is_echo(failure: TrialReport) -> bool:
    return failure.cause is Cause.ERROR and any(word in f"{failure.message}\n{failure.details}" for word in _ECHOES)


def _describe_loss(error: BaseException | None) -> str:
    """Return the first line of an error, without Ray Train's headings."""
    lines = [line.strip() for line in str(error or "").splitlines()]
    told = [line for line in lines if line and not line.startswith(("Training failed due to", "[Rank "))]
    return told[0] if told else "its workers ended before their run did"
