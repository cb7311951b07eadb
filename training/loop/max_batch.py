"""Find the largest batch that fits into the memory of a process, and how many processes fit at once.

The answer comes from real training steps, not from an estimate.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch.nn.functional import one_hot

from training.config.run import Scalar, TrainConfig
from training.data.batches import Batch
from training.loop.arithmetic import set_arithmetic
from training.loop.epoch import EpochLoop
from training.loop.guard import FiniteGuard
from training.loop.memory import GIB, is_out_of_memory, peak_gib, total_gib
from training.loop.weight_average import WeightAverage
from training.machine import limit_memory
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.models.registry import build_model

_SCHEDULE_STEPS = 1000  # any length works: memory does not depend on it
_SHARED_FRAC = 0.95
_STEPS = 2  # the first step allocates the optimiser's moments, so only the second needs all the memory


@dataclass(frozen=True)
class Attempt:
    """The result of trying a batch size.

    Attributes:
        batch_size: Batch of one process.
        fits: Whether its steps had enough memory.
        peak_gib: Peak of allocated memory, until the failure if it did not fit. None if the process was killed.
    """

    batch_size: int
    fits: bool
    peak_gib: float | None


@dataclass(frozen=True)
class MaxBatch:
    """The result of a probe.

    Attributes:
        batch_size: The largest batch that fits; 0 if not even one image does.
        limit_gib: The memory it had to fit into.
        attempts: All attempts, in order.
        own_batch_size: The batch size of the run's own settings.
        own_gib: Memory of a process with that batch; on a GPU, including its context and torch's cache. None if it
            does not fit.
    """

    batch_size: int
    limit_gib: float
    attempts: tuple[Attempt, ...]
    own_batch_size: int
    own_gib: float | None

    @property
    def num_sharing(self) -> int:
        """How many runs of the own batch size fit at once; a twentieth of the memory stays free for fluctuations."""
        return 0 if self.own_gib is None else int(_SHARED_FRAC * self.limit_gib / self.own_gib)


def find_max_batch(try_batch: Callable[[int], Attempt], largest: int) -> tuple[int, tuple[Attempt, ...]]:
    """Double the batch from 1 until it does not fit or is ``largest``, then bisect the rest.

    Returns:
        The largest batch that fits, 0 if none does; and every attempt.
    """
    attempts = [try_batch(1)]
    while attempts[-1].fits and attempts[-1].batch_size < largest:
        attempts.append(try_batch(min(2 * attempts[-1].batch_size, largest)))
    low = max((attempt.batch_size for attempt in attempts if attempt.fits), default=0)
    high = largest + 1 if attempts[-1].fits else attempts[-1].batch_size
    while high - low > 1:
        attempts.append(try_batch((low + high) // 2))
        low, high = (attempts[-1].batch_size, high) if attempts[-1].fits else (low, attempts[-1].batch_size)
    return low, tuple(attempts)


def probe_gpu(config: TrainConfig, num_classes: int, largest: int, device: torch.device) -> MaxBatch:
    """Find the largest batch for one GPU, which nothing else should be using.

    Args:
        config: Settings of the run; its weights and compilation do not matter.
        num_classes: C.
        largest: Number of images in the train split. No batch is larger, and a method may keep state for each of them.
        device: The GPU.
    """

    def try_batch(batch_size: int) -> Attempt:
        torch.cuda.reset_peak_memory_stats(device)
        fits = _steps_fit(config, num_classes, batch_size, largest, device)
        peak = peak_gib(device)
        # Cycles of a failed attempt would keep its tensors alive, and the next attempt would find less memory.
        gc.collect()
        torch.cuda.empty_cache()
        return Attempt(batch_size, fits, peak)

    batch_size, attempts = find_max_batch(try_batch, largest)
    own, own_gib = config.optim.batch_size, None
    if own <= batch_size and _steps_fit(config, num_classes, own, largest, device):
        free, total = torch.cuda.mem_get_info(device)
        own_gib = (total - free) / GIB
    return MaxBatch(batch_size, total_gib(device), attempts, own, own_gib)


def probe_cpu(config: TrainConfig, num_classes: int, largest: int, limit_gib: float) -> MaxBatch:
    """Find the largest batch whose steps stay below a resident set of ``limit_gib``.

    Each attempt runs in a process of its own.

    Args:
        config, num_classes, largest: As for :func:`probe_gpu`.
        limit_gib: Memory that a process may take, including the program itself.

    Raises:
        RuntimeError: An attempt failed for a reason other than memory; its process has printed the error.
    """
    # Not forked from here: a child that shares this process's pages would count them as its own. The server from which
    # they are forked has imported torch and nothing else, which takes longer than an attempt.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def try_batch(batch_size: int) -> Attempt:
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_try_on_cpu, args=(there, config.flatten(), num_classes, batch_size, largest, limit_gib)
        )
        process.start()
        there.close()  # close our copy of the writing end, or recv would wait forever for a process that was killed
        try:
            fits, peak = here.recv()
        except EOFError:
            fits, peak = False, None
        process.join()
        # A negative exit code means that the process was killed: the machine has less memory than the limit.
        if process.exitcode is not None and process.exitcode > 0:
            raise RuntimeError(
                f"A step with batch {batch_size} failed, and not for lack of memory; see the output above"
            )
        return Attempt(batch_size, fits and peak is not None and peak <= limit_gib, peak)

    batch_size, attempts = find_max_batch(try_batch, largest)
    own = config.optim.batch_size
    tried = next((attempt for attempt in attempts if attempt.batch_size == own), None)
    tried = tried or (try_batch(own) if own <= batch_size else None)
    return MaxBatch(batch_size, limit_gib, attempts, own, tried.peak_gib if tried and tried.fits else None)


def _try_on_cpu(
    result: Connection, flat: dict[str, Scalar], num_classes: int, batch_size: int, num_examples: int, limit_gib: float
) -> None:
    device = torch.device("cpu")
    if (started := peak_gib(device)) > limit_gib:
        result.send((False, started))  # the program alone is too large
        return
    # Refuse memory to an attempt that is far too large before the whole machine runs out of it.
    limit_memory(round(2 * limit_gib * GIB))
    fits = _steps_fit(TrainConfig.from_flat(flat), num_classes, batch_size, num_examples, device)
    result.send((fits, peak_gib(device)))


def _steps_fit(config: TrainConfig, num_classes: int, batch_size: int, num_examples: int, device: torch.device) -> bool:
    try:
        _take_steps(config, num_classes, batch_size, num_examples, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False  # in a function of its own, so that the error's traceback no longer keeps the tensors alive
    return True


def _take_steps(
    config: TrainConfig, num_classes: int, batch_size: int, num_examples: int, device: torch.device
) -> None:
    """Build what a run builds, with random weights and images, and take steps of its last epoch.

    By then every part of the loss is active.
    """
    # Weights and compilation change the time of a step, not the memory that it needs.
    changes = {"model.weights": "none", "loop.compile": False, "optim.batch_size": batch_size}
    config = config.with_params(changes)
    set_arithmetic(config.loop)
    model, _ = build_model(config.model, num_classes, device)
    sizes = Sizes(num_classes, num_examples, config.loop.epochs, getattr(model, "embedding_dim", None))
    method = build_method(config.method, sizes).to(device)
    batch = _random_batch(batch_size, config.data.image_size, num_classes, device, strong=method.needs_strong_view)
    # Start the method with the full number of examples, because it may keep state for each.
    method.start(one_hot(torch.arange(num_examples, device=device) % num_classes, num_classes) > 0)
    average = None if config.optim.average_decay is None else WeightAverage(model, config.optim.average_decay)
    loop = EpochLoop(config, model.train(), method, _SCHEDULE_STEPS, device, average)
    guard = FiniteGuard(config.loop.epochs, device)
    for step in range(1, _STEPS + 1):
        loop.take_step(batch, config.loop.epochs, step, guard)
    guard.check()


def _random_batch(batch_size: int, size: int, num_classes: int, device: torch.device, *, strong: bool) -> Batch:
    def images() -> torch.Tensor:
        return torch.randn(batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)

    observed = one_hot(torch.arange(batch_size, device=device) % num_classes, num_classes).float()
    return Batch(torch.arange(batch_size, device=device), images(), images() if strong else None, observed, observed)
