"""Test both models at their published size: the number of parameters, and one step of IGNORE at 448 px on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights

from tests.kit.scenes import random_batch
from training.config.run import TrainConfig
from training.loop.guard import FiniteGuard
from training.loop.optim import build_optimizer, guarded_step
from training.losses import total_loss
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.models.registry import build_model

CPU = torch.device("cpu")
C = 20  # VOC
# torchvision publishes 25,557,032 for ResNet-50; its classifier of 1,000 classes is not in the trunk.
TRUNK = int(ResNet50_Weights.IMAGENET1K_V1.meta["num_params"]) - (2048 * 1000 + 1000)
D, FEEDFORWARD = 2048, 8192
RESNET_CAM = TRUNK + C * D + C
# For Query2Label no count is at hand: this one is by hand from the sizes that its paper and the release state.
ATTENTION = 4 * (D * D + D)
LAYER = ATTENTION + (D * FEEDFORWARD + FEEDFORWARD) + (FEEDFORWARD * D + D) + 2 * (2 * D)
QUERY2LABEL = TRUNK + 3 * LAYER + 2 * D + C * D + (C * D + C)
CHANGES: dict[str, dict[str, Any]] = {
    "resnet_cam": {"optim.head_lr_multiplier": 10.0},
    "query2label": {
        "model.name": "query2label",
        "model.frozen_bn": True,
        "optim.name": "adamw",
        "optim.weight_decay": 1e-2,
    },
}


def config_of(model: str) -> TrainConfig:
    return TrainConfig.from_flat({"model.weights": "none", "optim.batch_size": 2, **CHANGES[model]})


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "by_hand", "num_parameters"),
    [
        ("resnet_cam", RESNET_CAM, 23_549_012),
        pytest.param("query2label", QUERY2LABEL, 174_668_884, marks=pytest.mark.long),
    ],
)
def test_one_step_at_448_px_changes_every_trainable_parameter(name: str, by_hand: int, num_parameters: int) -> None:
    config = config_of(name)
    torch.manual_seed(0)
    model, _ = build_model(config.model, C, CPU)
    assert count(model.get_submodule("trunk")) == TRUNK == 23_508_032
    assert count(model) == by_hand == num_parameters
    method = build_method(config.method, Sizes(C, 2, 25))
    optimizer = build_optimizer(config.optim, model.train(), method)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters() if parameter.requires_grad}
    output = method.step(model, random_batch(2, C, 448), epoch=4)
    loss, values = total_loss(output.parts)
    finite = FiniteGuard(4, CPU).observe(1, values)
    loss.backward()
    guarded_step(optimizer, finite)
    method.apply_updates(output, finite)
    assert bool(finite)
    assert [
        key for key, parameter in model.named_parameters() if key in before and torch.equal(parameter, before[key])
    ] == []
    assert 0 < float(output.sums["kept_frac"]) < 2, "the masks keep a part of the images"
    assert float(method.get_buffer("gap_threshold")) > 0
