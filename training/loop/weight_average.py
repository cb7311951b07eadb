"""A second set of weights that follows the trained ones: their exponential moving average."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.metric_names import VAL_AVERAGE_GAIN
from training.selection import SelectBy, epoch_metric


class WeightAverage:
    """Keeps ``w_avg <- decay w_avg + (1 - decay) w`` over the steps, from the initial weights on and without bias
    correction.

    BatchNorm's statistics are averaged like weights; counts are copied. As weights and statistics are the same on every
    rank, so is their average. This is what ASL's and PLC + LAC's authors use (decay 0.9997), who evaluate it beside the
    trained weights.

    Args:
        model: With its initial weights; it is copied.
        decay: In 0-1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        self._followed: list[tuple[list[Tensor], list[Tensor]]] = []
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        # By type: torch takes a list of tensors at a time.
        for dtype in dict.fromkeys(mine.dtype for mine, _ in pairs):
            mine, theirs = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
            self._followed.append((list(mine), list(theirs)))

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Take in the weights after a step, or leave the average as it is where ``finite`` (bool scalar) is False."""
        share = finite * (1 - self._decay)
        for averages, weights in self._followed:
            if averages[0].is_floating_point():
                steps = torch._foreach_sub(weights, averages)
                torch._foreach_mul_(steps, share.to(averages[0].dtype))
                torch._foreach_add_(averages, steps)
            else:
                torch._foreach_copy_(averages, weights)


def gain_of_average(
    averaged: Mapping[str, float], trained: Mapping[str, float], select_epoch_by: SelectBy
) -> dict[str, float]:
    """Return the metric that says how much better the averaged weights are; none where what they are compared by is not
    known.
    """
    name = epoch_metric(select_epoch_by)
    return {VAL_AVERAGE_GAIN: averaged[name] - trained[name]} if name in averaged else {}


def average_leads(metrics: Mapping[str, float], select_epoch_by: SelectBy) -> bool:
    """Return whether the averaged weights are those that count in the epoch with these metrics."""
    return select_epoch_by is SelectBy.LAST or metrics.get(VAL_AVERAGE_GAIN, 0.0) > 0
