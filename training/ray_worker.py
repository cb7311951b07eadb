"""One run over Ray Train workers: each rank steps the same ``TrainingRun``, rank 0 tells the driver of every epoch.

The only file of the core that imports ray. An epoch is not begun before the driver has taken in the one before, so that
a driver that dies never finds a checkpoint further ahead than its journal by more than one epoch, whose metrics the
checkpoint carries.
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

if TYPE_CHECKING:
    from training.config.run import TrainConfig

Message = dict[str, Any]
"""Of an epoch: ``epoch, metrics, artifacts``; the first one also ``host, pid, queue_s, start_s``, after a resume
``passed_over``. ``epoch`` 0 alone says that the workers are there. Of a failure: ``error, details``.
"""


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        storage: URI of the run's checkpoints.
        channel: Handle of a :class:`Channel` actor.
        handed_ms: When the driver handed the run out.
        title: Promotion and run, for its pictures.
        make_run: In place of ``TrainingRun`` (tests).
    """

    config: TrainConfig
    storage: str
    channel: Any
    handed_ms: int
    title: str = ""
    make_run: Callable[[TrainConfig, str], Run] | None = None


class Channel:
    """The actor between rank 0, which tells and waits, and the driver, which takes and answers."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[Message, asyncio.Future[bool]]] = asyncio.Queue()
        self._answer: asyncio.Future[bool] | None = None

    async def tell(self, message: Message) -> bool:
        """Hand a message to the driver and return its answer: whether the run goes on."""
        answer = asyncio.get_running_loop().create_future()
        await self._messages.put((message, answer))
        return bool(await answer)

    async def take(self) -> Message:
        """Return the next message, which must be answered before another is taken."""
        message, self._answer = await self._messages.get()
        return message

    async def answer(self, goes_on: bool) -> None:
        """Let the one that told go on, or not."""
        assert self._answer is not None
        self._answer.set_result(goes_on)


class _StoppedError(Exception):
    """The driver wants no more of this run."""


def train_worker(job: Job) -> None:
    """Train one rank of a run from its newest checkpoint to its end; the function of a ``TorchTrainer``.

    Raises:
        Exception: Whatever the run raises, after the driver was told.
    """
    began = time.time()
    try:
        if _rank() == 0 and not ray.get(job.channel.tell.remote({"epoch": 0})):
            raise _StoppedError
        run = _build(job)
        resumed = run.resume()
        first = {"host": socket.gethostname(), "pid": os.getpid(), "queue_s": max(0.0, began - job.handed_ms / 1000)}
        first["start_s"] = time.time() - began
        if resumed:
            _report(
                job, run, first | {"passed_over": run.passed_over}
            )  # a kill may have swallowed the report of this epoch: say it again
            first = {}
        while not run.finished:
            run.train_epoch()
            run.save()
            _wait_for_all_ranks()
            _report(job, run, first)
            first = {}
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
    # Every rank: evaluation is shared between them.
    artifacts = collect_artifacts(run, job.title, forgiving=_world_size() == 1) if run.finished else {}
    if _rank() != 0:
        return
    metrics = {name: float(value) for name, value in run.metrics.items()}
    goes_on = ray.get(
        job.channel.tell.remote({"epoch": run.epoch, "metrics": metrics, "artifacts": artifacts, **first})
    )
    if not goes_on and not run.finished:
        raise _StoppedError


def _world_size() -> int:
    from training.distributed import world_size

    return world_size()


def _rank() -> int:
    from training.distributed import rank

    return rank()


def _wait_for_all_ranks() -> None:
    # Only rank 0 writes checkpoints; the others must not read what it has not written yet.
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
