"""Tiny digit scenes for the tests of training: made once a session, in the session's cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from training import preparation
from training.config.run import TrainConfig
from training.data.batches import Batch
from training.data.split import SplitData

SCENE_SEED = 770
"""Not used by other tests: the trunk of these scenes is trained for one epoch only."""

TINY: dict[str, Any] = {
    "data.name": "digits",
    "data.scene_seed": SCENE_SEED,
    "data.num_train": 64,
    "data.num_val": 40,
    "data.num_test": 40,
    "data.image_size": 40,
    "model.backbone": "digits/resnet12",
    "model.weights": "pretext",
    "method.cam_threshold": 0.5,
    "method.warmup_epochs": 1,
    "method.gap_decay": 0.9,
    "method.masked_pass_bn": "eval_both",
    "optim.lr": 3e-3,
    "optim.weight_decay": 1e-4,
    "optim.batch_size": 16,
    "optim.schedule": "one_cycle",
    "loop.epochs": 4,
    "loop.recipe": "digits",
}


RECIPES: dict[str, dict[str, Any]] = {
    "ignore, digits recipe": {},
    "ignore, as released": {
        "method.masked_pass_bn": "train",
        "method.cam_normalisation": "batch",
        "optim.schedule": "constant",
    },
    "ignore, corrected": {"method.correct_gap_bias": True, "method.correct_average_bias": True, "optim.name": "adamw"},
    "wan": {"method.name": "wan", "optim.name": "sgd"},
    "full labels": {"method.name": "full_labels", "optim.head_lr_multiplier": 10.0},
}
"""Name -> changes to the configuration of the tiny scenes, one for each way in which a run may differ."""


def tiny_config(changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration of IGNORE on the tiny scenes, with changes under their dotted keys."""
    return TrainConfig.from_flat(TINY).with_params(changes or {})


def prepare_tiny() -> None:
    """Prepare the tiny scenes, unless that has been done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "PRETEXT_EPOCHS", 1)
        preparation.prepare(tiny_config().data)


@contextmanager
def thin_trunks() -> Iterator[None]:
    """Within it, the digits trunk has few channels and random weights: a run takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.backbone.WIDTHS", (4, 6, 8))
        patch.setitem(TINY, "model.weights", "none")
        yield


def pixels_of(split: SplitData) -> Tensor:
    """Return all images of a split, uint8 (N, 3, H, W)."""
    return split.images.read(range(len(split)))


def use_one_thread() -> None:
    """Let torch use one thread: with tensors this small, more of them only wait for each other."""
    torch.set_num_threads(1)


def random_batch(num: int, num_classes: int = 10, size: int = 40, seed: int = 0, without_positive: int = 0) -> Batch:
    """Return a batch of noise whose first ``without_positive`` examples have no observed label."""
    generator = torch.Generator().manual_seed(seed)
    true = (torch.rand(num, num_classes, generator=generator) < 0.3).float()
    observed = torch.zeros(num, num_classes)
    for row in range(without_positive, num):
        label = int(torch.randint(num_classes, (1,), generator=generator))
        true[row, label] = observed[row, label] = 1.0
    weak, strong = (torch.randn(num, 3, size, size, generator=generator) for _ in range(2))
    return Batch(index=torch.arange(num), weak=weak, strong=strong, observed=observed, true=true)
