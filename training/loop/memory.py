"""Report how much memory a step used when it runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.data.batches import Batch
from training.errors import StepMemoryError
from training.machine import peak_memory_bytes, total_memory_bytes

GIB = 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch has no error class for CPU memory: only the text shows it.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def peak_gib(device: torch.device) -> float:
    """Return the peak of allocated memory: by torch on a GPU, by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return peak_memory_bytes() / GIB


def total_gib(device: torch.device) -> float:
    """Return the memory of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return total_memory_bytes() / GIB


@contextmanager
def memory_figures(batch: Batch, epoch: int, step: int) -> Iterator[None]:
    """Turn an out-of-memory error of a step into one that carries the figures.

    Raises:
        StepMemoryError: The step ran out of memory; torch's error is its cause.
    """
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError, and so is what torch raises on the CPU.
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = batch.weak.device
        figures = {
            "device": "GPU" if device.type == "cuda" else "CPU",
            "epoch": epoch,
            "step": step,
            "batch_size": len(batch.weak),
            "image_size": batch.weak.shape[-1],
            "peak_gib": round(peak_gib(device), 2),
            "total_gib": round(total_gib(device), 2),
        }
        raise StepMemoryError(figures) from error
