"""Keep a second set of weights that follows the trained ones: their exponential moving average (EMA)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.metric_names import VAL_AVERAGE_GAIN
from training.selection import SelectBy, epoch_metric
from training.torch_compat import move_towards


class WeightAverage:
    """Average weights over the steps by ``w_avg <- decay w_avg + (1 - decay) w``.

    It starts from the initial weights, without bias correction. BatchNorm's statistics are averaged like weights; its
    counts are copied. Weights and statistics are the same on every rank, and so is their average. The authors of ASL
    and PLC + LAC train with it (decay 0.9997) and evaluate it next to the trained weights.

    ``torch.optim.swa_utils.AveragedModel`` cannot take its place. Its ``update_parameters`` waits for the GPU in every
    step: it reads the buffer ``n_averaged`` with ``bool()`` and copies it to the weights' device, whichever device it
    is on. It also moves the average by ``lerp``, which rounds differently, so that no earlier result could be
    reproduced to the last digit. (Checked with torch 2.15.)

    Args:
        model: With its initial weights; it is copied.
        decay: In 0-1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        self._followed: list[tuple[list[Tensor], list[Tensor]]] = []
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        # Grouped by type, because torch updates a whole list of tensors of one type in a few kernels.
        for dtype in dict.fromkeys(mine.dtype for mine, _ in pairs):
            mine, theirs = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
            self._followed.append((list(mine), list(theirs)))

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Add the weights after a step, or leave the average as it is where ``finite`` (bool scalar) is False."""
        # A product instead of an if: the host never asks the device whether the loss was finite.
        share = finite * (1 - self._decay)
        for averages, weights in self._followed:
            move_towards(averages, weights, share)


def gain_of_average(
    averaged: Mapping[str, float], trained: Mapping[str, float], select_epoch_by: SelectBy
) -> dict[str, float]:
    """Return by how much the averaged weights beat the trained ones; empty if the metric that decides is unknown."""
    name = epoch_metric(select_epoch_by)
    return {VAL_AVERAGE_GAIN: averaged[name] - trained[name]} if name in averaged else {}


def average_leads(metrics: Mapping[str, float], select_epoch_by: SelectBy) -> bool:
    """Return whether the averaged weights are the ones that count in the epoch with these metrics."""
    return select_epoch_by is SelectBy.LAST or metrics.get(VAL_AVERAGE_GAIN, 0.0) > 0
