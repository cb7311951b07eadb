"""Train one run over Ray Train workers: each rank steps the same ``TrainingRun``, and rank 0 reports to the driver.

This is the only file of the core that imports ray. An epoch starts only after the driver has recorded the one before,
so that after the driver's death a checkpoint is at most one epoch ahead of the journal, and holds that epoch's metrics.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from training.loop.stepping import Run, collect_artifacts
from training.machine import name_device

if TYPE_CHECKING:
    from training.config.run import TrainConfig

Message = dict[str, Any]
"""A message from rank 0 to the driver.

After an epoch: ``epoch, metrics, artifacts``; the first one also has ``host, pid, device, queue_s, start_s,
resumed_from, passed_over``. ``epoch`` 0 alone means that the workers have started. After a failure: ``error,
details``.
"""


@dataclass(frozen=True)
class Job:
    """What a worker has to do.

    Attributes:
        config: Settings of the run.
        storage: URI of the run's checkpoints.
        channel: Handle of a :class:`Channel` actor.
        handed_ms: Time at which the driver handed out the run.
        title: Promotion and run, for the titles of pictures.
        make_run: Builds the run in place of ``TrainingRun`` (for tests).
    """

    config: TrainConfig
    storage: str
    channel: Any
    handed_ms: int
    title: str = ""
    make_run: Callable[[TrainConfig, str], Run] | None = None


class Channel:
    """The actor between rank 0, which sends messages and waits, and the driver, which takes and answers them."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[Message, asyncio.Future[bool]]] = asyncio.Queue()
        self._answer: asyncio.Future[bool] | None = None

    async def tell(self, message: Message) -> bool:
        """Send a message to the driver and return its answer: whether the run continues."""
        answer = asyncio.get_running_loop().create_future()
        await self._messages.put((message, answer))
        return bool(await answer)

    async def take(self) -> Message:
        """Return the next message; it must be answered before the next one is taken."""
        message, self._answer = await self._messages.get()
        return message

    async def answer(self, goes_on: bool) -> None:
        """Answer the message that was taken: whether the run continues."""
        assert self._answer is not None
        self._answer.set_result(goes_on)


class _StoppedError(Exception):
    """The driver has stopped this run."""


def train_worker(job: Job) -> None:
    """Train one rank of a run from its newest checkpoint to its end; the function of a ``TorchTrainer``.

    Raises:
        Exception: Whatever the run raises, after reporting it to the driver.
    """
    began = time.time()
    try:
        # Before the model is built, so that the driver can tell workers that wait for resources from slow ones.
        if _rank() == 0 and not ray.get(job.channel.tell.remote({"epoch": 0})):
            raise _StoppedError
        run = _build(job)
        resumed = run.resume()
        first = {"host": socket.gethostname(), "pid": os.getpid(), "device": name_device()}
        first |= {"queue_s": max(0.0, began - job.handed_ms / 1000), "start_s": time.time() - began}
        first |= {"resumed_from": run.epoch if resumed else 0, "passed_over": run.passed_over}
        if resumed:
            # Report the resumed epoch again, because a kill may have swallowed its first report.
            _report(job, run, first)
            first = {}
        while not run.finished:
            run.train_epoch()
            # Saved before it is reported: an epoch in the journal has to be in a checkpoint from which a resume can
            # continue.
            run.save()
            _wait_for_all_ranks()
            _report(job, run, first)
            first = {}
    # Nothing to report: it was the driver that stopped the run.
    except _StoppedError:
        raise
    except Exception as error:
        ray.get(job.channel.tell.remote({"error": _portable(error), "details": traceback.format_exc()}))
        raise


def _build(job: Job) -> Run:
    if job.make_run is not None:
        return job.make_run(job.config, job.storage)
    from training.loop.run import TrainingRun

    return TrainingRun(job.config, storage=job.storage)


def _report(job: Job, run: Run, first: Message) -> None:
    # On every rank, because the ranks share the evaluation that artifacts need.
    artifacts = collect_artifacts(run, job.title, forgiving=_world_size() == 1) if run.finished else {}
    if _rank() != 0:
        return
    metrics = {name: float(value) for name, value in run.metrics.items()}
    goes_on = ray.get(
        job.channel.tell.remote({"epoch": run.epoch, "metrics": metrics, "artifacts": artifacts, **first})
    )
    # A finished run has nothing left to stop.
    if not goes_on and not run.finished:
        raise _StoppedError


# Imported in the functions, because the driver imports this module too and must not load torch.
def _world_size() -> int:
    from training.distributed import world_size

    return world_size()


def _rank() -> int:
    from training.distributed import rank

    return rank()


def _wait_for_all_ranks() -> None:
    # Only rank 0 writes checkpoints, and the others must not read them before they are written.
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _portable(error: Exception) -> Exception:
    """Return the error, or a plain one with its text if it cannot be pickled on its way to the driver."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
