"""Stop a run before its full length by the rules of published recipes.

The rules watch the metric that chooses the epoch. Every rank measures it alike, so all ranks stop together. A resumed
run makes the same decisions as an uninterrupted one, because what the rules need is part of the run's state.

With averaged weights, patience is that of PLC + LAC's release: a gain of the trained weights over their own best counts
too, even in an epoch in which neither set beats the best epoch, and the run ends only in an epoch in which the averaged
weights are below their own best. So a run of which one set still gets better goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.config.run import LoopConfig
from training.metric_names import TRAIN_STOPPED


@dataclass(frozen=True)
class Best:
    """The best epoch so far by one score, the earliest of equals; None and minus infinity at first."""

    epoch: int | None = None
    value: float = float("-inf")

    def after(self, epoch: int, value: float | None) -> Best:
        """Return the best one after an epoch with this value, or with none."""
        return Best(epoch, value) if value is not None and value > self.value else self


@dataclass(frozen=True)
class BestOfSets:
    """The best epochs of the trained and of the averaged weights, each by itself.

    Attributes:
        trained, averaged: The best epochs.
        has_fallen: Whether the averaged weights of the last epoch are below their best.
    """

    trained: Best = Best()
    averaged: Best = Best()
    has_fallen: bool = False

    def after(self, epoch: int, trained: float | None, averaged: float | None) -> BestOfSets:
        """Return the best epochs after an epoch with these values."""
        best = self.averaged.after(epoch, averaged)
        return BestOfSets(self.trained.after(epoch, trained), best, averaged is None or averaged < best.value)


def is_over(config: LoopConfig, epoch: int, value: float | None, best: Best, of_sets: BestOfSets | None = None) -> bool:
    """Return whether a rule ends the run after ``epoch``; call this once the best epochs are updated.

    Args:
        config: The rules: ``patience_epochs`` and ``max_drop_percent``.
        epoch: Counted from 1.
        value: The epoch's value of that metric in percent, or None if it has none.
        best: The best epoch so far by that value.
        of_sets: The best epochs of both sets of weights, if the run keeps averaged ones.
    """
    if config.patience_epochs is not None:
        # If no epoch has had the metric yet, the patience counts from the start.
        gains = [best.epoch or 0] if of_sets is None else [best.epoch or 0, of_sets.trained.epoch or 0]
        if epoch - max(gains) > config.patience_epochs and (of_sets is None or of_sets.has_fallen):
            return True
    return config.max_drop_percent is not None and value is not None and best.value - value > config.max_drop_percent


def was_stopped(metrics: Mapping[str, float]) -> bool:
    """Return whether a rule of its run made the epoch with these metrics the last one."""
    return TRAIN_STOPPED in metrics
