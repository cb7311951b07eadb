"""Evaluate trained weights on a split. This is the only place that opens the test split."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from training.config.run import DataConfig, TrainConfig
from training.data.dataset_names import EMBEDDED
from training.data.digits import read_split
from training.data.registry import dataset_info, digits_place, load_split, open_dataset
from training.data.split import SplitData
from training.data.views import PixelScale
from training.distributed import gather_rows, rank, world_size
from training.loop.arithmetic import set_arithmetic
from training.loop.run import score_batches
from training.metrics import DEFAULT_THRESHOLD, AbsentClasses, MetricAccumulator
from training.models.registry import build_model


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
        Metrics in percent, named ``split/name``.
    """
    return _evaluate(config, state, load_split(config.data, split)).compute(split, threshold, absent_classes)


def evaluate_test(config: TrainConfig, state: dict[str, Any]) -> dict[str, float]:
    """Evaluate on the test split; only for promotion, after its decision.

    Returns:
        Metrics in percent, named ``test/name``; none if the test split has no images.
    """
    data = _load_test_split(config.data)
    # Without images, every metric would be 0, which looks like a result.
    return _evaluate(config, state, data).compute("test") if len(data) else {}


def restore_model(config: TrainConfig, state: dict[str, Any], device: torch.device) -> nn.Module:
    """Build a run's model and load its trained weights, without downloading pretrained ones."""
    # Without pretrained weights, which the trained ones replace anyway: evaluation must work without a network.
    bare = config.model.model_copy(update={"weights": "none"})
    model, _ = build_model(bare, len(state["classes"]), device)
    model.load_state_dict(state["model"])
    return model.eval()


def _load_test_split(config: DataConfig) -> SplitData:
    if config.name == EMBEDDED:
        return read_split(digits_place(config), "test", config.draw_seed)
    return open_dataset(config).test_split(config.draw_seed)


def _evaluate(config: TrainConfig, state: dict[str, Any], data: SplitData) -> MetricAccumulator:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_arithmetic(config.loop)
    model = restore_model(config, state, device)
    return accumulate(model, data, dataset_info(config.data).scale, device, config.data.num_workers)


def accumulate(
    model: nn.Module, data: SplitData, scale: PixelScale, device: torch.device, num_workers: int = 0
) -> MetricAccumulator:
    """Score a split batch by batch.

    Ranks share the work, each example counts once, and in the end every rank has the scores of all.
    """
    accumulator = MetricAccumulator(len(data.classes), has_true=data.true is not None, device=device)
    # The rows that score_batches scores on this rank, in its order.
    rows = torch.arange(len(data)).tensor_split(world_size())[rank()]
    for logits in score_batches(model, data, scale, device, num_workers):
        part, rows = rows[: len(logits)], rows[len(logits) :]
        accumulator.update(logits, None if data.true is None else data.true[part], data.observed[part])
    assert len(rows) == 0
    accumulator.gather(gather_rows)
    return accumulator
