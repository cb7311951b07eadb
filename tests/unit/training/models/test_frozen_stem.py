"""Test that the stem and the first stage of a trunk stay as they are, in every mode and with any BatchNorm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.config.run import ModelConfig, OptimConfig
from training.errors import ConfigError
from training.loop.optim import build_optimizer
from training.models.base import Network
from training.models.registry import build_model

CPU = torch.device("cpu")


def build(backbone: str = "digits/resnet12", distributed: bool = False, **settings: Any) -> Network:
    torch.manual_seed(0)
    settings = {"name": "resnet_cam", "weights": "none", "frozen_stem": True, **settings}
    model, _ = build_model(ModelConfig(backbone=backbone, **settings), 4, CPU, distributed=distributed)
    assert isinstance(model, Network)
    return model


def frozen_of(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def test_of_resnet50_the_weights_are_those_that_the_releases_freeze() -> None:
    model = build("torchvision/resnet50", frozen_bn=True)
    convolutions = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and parameter.dim() == 4
    }
    assert sum(convolutions.values()) == 222_400
    assert {name.split(".")[1] for name in convolutions} == {"conv1", "layer1"}
    trained = {
        id(parameter) for group in build_optimizer(OptimConfig(), model).param_groups for parameter in group["params"]
    }
    assert not trained & {id(model.get_parameter(name)) for name in convolutions}


@pytest.mark.parametrize("backbone", ["timm/resnet18", "torchvision/resnet18", "digits/resnet12"])
def test_of_any_resnet_everything_before_the_second_stage_is_frozen(backbone: str) -> None:
    model = build(backbone)
    frozen = {name.split(".")[1] for name in frozen_of(model)}
    assert frozen == ({"0", "1"} if backbone.startswith("digits") else {"conv1", "bn1", "layer1"})
    assert frozen_of(build(backbone, frozen_stem=False)) == []


def test_a_trunk_without_a_resnets_stages_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="needs a ResNet, whose first stage is known, but got model.backbone=torchvision/densenet121"
    ) as error:
        build("torchvision/densenet121")
    assert error.value.key == "model.frozen_stem"


@pytest.mark.parametrize("distributed", [False, True])
def test_steps_change_neither_its_weights_nor_its_statistics_and_do_change_the_rest(distributed: bool) -> None:
    model = build(distributed=distributed)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(OptimConfig(name="adamw", lr=0.1, weight_decay=0.1), model)
    for _ in range(2):
        model.eval()
        model.train()
        model(torch.randn(4, 3, 40, 40)).logits.square().sum().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith(("trunk.0.", "trunk.1."))]
    assert {name for name in before if name.startswith(("trunk.2.", "head."))} == changed


def test_a_copy_of_the_model_stays_frozen() -> None:
    norms = [module for module in copy.deepcopy(build()).train().trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.training for norm in norms] == [False] * 4 + [True] * 3


def test_no_gradient_is_computed_for_it() -> None:
    model = build(name="query2label", hidden_dim=48, feedforward_dim=64).train()
    seen: list[Tensor] = []
    model.trunk.get_submodule("1").register_forward_hook(lambda *values: seen.append(values[-1]))
    model(torch.randn(2, 3, 40, 40)).logits.sum().backward()
    assert not seen[0].requires_grad
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
