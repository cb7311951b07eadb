"""Stop a run before its full length by the rules of published recipes.

The rules watch the metric that chooses the epoch. Every rank measures it alike, so all ranks stop together. A resumed
run makes the same decisions as an uninterrupted one, because the rules need only the best epoch so far, which is part
of the run's state.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.config.run import LoopConfig
from training.metric_names import TRAIN_STOPPED


def is_over(config: LoopConfig, epoch: int, value: float | None, best_epoch: int | None, best_value: float) -> bool:
    """Return whether a rule ends the run after ``epoch``; call this once the best epoch is updated.

    Args:
        config: The rules: ``patience_epochs`` and ``max_drop_percent``.
        epoch: Counted from 1.
        value: The epoch's value of that metric in percent, or None if it has none.
        best_epoch, best_value: The best epoch so far (the earliest of equals; None at first) and its value.
    """
    # If no epoch has had the metric yet, the patience counts from the start.
    if config.patience_epochs is not None and epoch - (best_epoch or 0) > config.patience_epochs:
        return True
    return config.max_drop_percent is not None and value is not None and best_value - value > config.max_drop_percent


def was_stopped(metrics: Mapping[str, float]) -> bool:
    """Return whether a rule of its run made the epoch with these metrics the last one."""
    return TRAIN_STOPPED in metrics
