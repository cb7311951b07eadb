"""Wrap what the core needs from torch.distributed; without a process group, functions assume one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    # A torch that was built without distributed has no is_initialized, so is_available is asked first.
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the detached sum of ``values`` over all ranks, same shape on each."""
    values = values.detach()
    if world_size() == 1:
        return values
    # all_reduce writes in place, and the caller's tensor has to stay this rank's share.
    total = values.clone()
    dist.all_reduce(total)
    return total


class _DifferentiableSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        # Contiguous, because collectives refuse strided tensors; cloned, because they write in place.
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's share of the sum, so a share's gradient is the sum over all losses.
        return sum_over_ranks(gradients[0].contiguous())


def differentiable_sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of ``values`` over all ranks, same shape on each, with gradient.

    Every rank must run backward through it, or the others wait forever.
    """
    if world_size() == 1:
        return values
    total: Tensor = _DifferentiableSum.apply(values)
    return total


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate each rank's rows in rank order; ranks may hold different numbers of rows.

    Args:
        rows: Tensor (n_rank, ...), same trailing shape and dtype on every rank.

    Returns:
        Tensor (sum of n_rank, ...), the same on every rank.
    """
    if world_size() == 1:
        return rows
    # Two collectives, in this order on every rank, even on one without rows: how many rows each has, then the rows.
    counts = _count_rows(rows)
    # all_gather needs equal shapes, so pad to the longest rank and cut the padding off afterwards.
    padded = torch.zeros((max(counts), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def differentiable_gather_rows(rows: Tensor) -> Tensor:
    """Do :func:`gather_rows` with gradient: a rank's rows receive the gradients of all ranks' losses.

    Every rank must run backward through it, or the others wait forever.

    Args:
        rows: Floating-point tensor (n_rank, ...), same trailing shape and dtype on every rank.

    Returns:
        Tensor (sum of n_rank, ...), the same on every rank.
    """
    if world_size() == 1:
        return rows
    counts = _count_rows(rows)
    before, after = sum(counts[: rank()]), sum(counts[rank() + 1 :])
    # Each rank adds zeros where the others have rows, which is exact; the sum's gradient is the one that is needed.
    padding = [rows.new_zeros((num, *rows.shape[1:])) for num in (before, after)]
    return differentiable_sum_over_ranks(torch.cat([padding[0], rows, padding[1]]))


def _count_rows(rows: Tensor) -> list[int]:
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return [int(count.item()) for count in counts]


def extremes_over_ranks(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and the maximum over the chosen rows of all ranks.

    Args:
        values: (n, ...).
        rows: bool (n,).

    Returns:
        Two tensors (...), infinite if no rank has a chosen row.
    """
    # No boolean indexing, which would make the host wait for the device to learn the number of rows.
    chosen = rows.view(-1, *[1] * (values.dim() - 1))
    # One infinite row, so that a rank without any row has something to reduce.
    empty = values.new_full((1, *values.shape[1:]), float("inf"))
    low = torch.cat([torch.where(chosen, values, torch.inf), empty]).amin(0)
    high = torch.cat([torch.where(chosen, values, -torch.inf), -empty]).amax(0)
    if world_size() > 1:
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
    return low, high
