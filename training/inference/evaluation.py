"""Evaluate trained weights on a split."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from training.config.run import TrainConfig
from training.criteria import measure_criteria
from training.data.registry import dataset_info, load_split
from training.data.split import SplitData
from training.inference.scores import Scores
from training.loop.arithmetic import set_arithmetic
from training.loop.run import score_split
from training.metrics import DEFAULT_THRESHOLD, AbsentClasses
from training.models.registry import build_model
from training.preparation import prepare
from training.selection import epoch_metric


def evaluate_split(
    config: TrainConfig,
    state: dict[str, Any],
    split: Literal["train", "val"],
    threshold: float = DEFAULT_THRESHOLD,
    absent_classes: AbsentClasses = "zero",
) -> dict[str, float]:
    """Evaluate on train or val.

    Args:
        config: Settings of the run that trained the weights.
        state: The run's best weights, as returned by :meth:`training.loop.checkpoint.CheckpointStore.load_best`.
        split: ``train`` or ``val``; only promotion opens ``test``.
        threshold, absent_classes: See :meth:`training.metrics.MetricAccumulator.compute`.

    Returns:
        Metrics in percent, named ``split/name``; for ``val`` with the criterion that chose the epoch.
    """
    prepare(config.data)
    scores = score_weights(config, state, load_split(config.data, split))
    found = scores.metrics(threshold, absent_classes)
    # What chose the epoch, if that is none of the usual metrics.
    chosen = epoch_metric(config.loop.select_epoch_by)
    if split == "val" and chosen not in found:
        found |= {
            name: value for name, value in measure_criteria(scores.logits, scores.observed).items() if name == chosen
        }
    return found


def score_weights(config: TrainConfig, state: dict[str, Any], data: SplitData) -> Scores:
    """Score every image of a split with trained weights; arguments as in :func:`evaluate_split`."""
    # Without images there is nothing to score, so no model has to fit them.
    if not len(data):
        return Scores.of(data, torch.zeros(0, len(data.classes)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_arithmetic(config.loop)
    model = restore_model(config, state, device)
    scale = dataset_info(config.data).scale
    return Scores.of(data, score_split(model, data, scale, device, config.data.num_workers))


def restore_model(config: TrainConfig, state: dict[str, Any], device: torch.device) -> nn.Module:
    """Build a run's model and load its trained weights, without downloading pretrained ones."""
    # Without pretrained weights, which the trained ones replace anyway: evaluation must work without a network.
    bare = config.model.model_copy(update={"weights": "none"})
    model, _ = build_model(bare, len(state["classes"]), device)
    model.load_state_dict(state["model"])
    return model.eval()
