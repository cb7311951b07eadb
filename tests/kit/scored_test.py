"""Evaluate on a test split without an entry in a ledger, which only tests may do."""

from __future__ import annotations

from typing import Any

from training.config.run import TrainConfig
from training.inference.evaluation import score_weights
from training.inference.test_split import load_test_split


def evaluate_test(config: TrainConfig, state: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a run's weights on its test split."""
    return score_weights(config, state, load_test_split(config.data)).metrics()
