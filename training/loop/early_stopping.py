"""Stopping rules of published recipes: a run that is over before its full length, by what it measured itself.

They watch what chooses the epoch, which every rank measures alike, so that all ranks stop together. A run that was
resumed decides as one that was not: the rules ask for nothing but the best epoch so far, which is part of its state.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.config.run import LoopConfig
from training.metric_names import TRAIN_STOPPED


def is_over(config: LoopConfig, epoch: int, value: float | None, best_epoch: int | None, best_value: float) -> bool:
    """Return whether a rule ends the run after ``epoch``, which has been compared with the best already.

    Args:
        config: The rules: ``patience_epochs`` and ``max_drop_percent``.
        epoch: Counted from 1.
        value: Of the epoch metric in percent, or None where it has none.
        best_epoch, best_value: Of the best epoch so far, the earliest of equals; None while there is none.
    """
    if config.patience_epochs is not None and epoch - (best_epoch or 0) > config.patience_epochs:
        return True
    return config.max_drop_percent is not None and value is not None and best_value - value > config.max_drop_percent


def was_stopped(metrics: Mapping[str, float]) -> bool:
    """Return whether the epoch with these metrics was the last one by a rule of its run."""
    return TRAIN_STOPPED in metrics
