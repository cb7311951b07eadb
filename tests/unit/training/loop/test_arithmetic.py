"""Test precision: what is rounded, what is not, and that it affects training but not evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.config.run import LoopConfig, ModelConfig
from training.loop.arithmetic import set_arithmetic, training_network
from training.models.base import ModelOutput
from training.models.registry import build_model

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "backbone": "digits/resnet12",
    "weights": "none",
    "hidden_dim": 48,
    "feedforward_dim": 64,
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    matmul, conv, threads = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
    )
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_tf32_is_used_only_where_it_was_asked_for(precision: Any, expected: bool) -> None:
    set_arithmetic(LoopConfig(precision=precision, num_threads=1))
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is expected


def test_full_precision_is_the_model_itself() -> None:
    model = nn.Linear(1, 1)
    assert training_network(model, LoopConfig()) is model


class _Spy(nn.Module):
    """A module that records the type of its inputs."""

    seen: torch.dtype | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.dtype
        return images


@pytest.mark.parametrize("name", ["resnet_cam", "query2label"])
def test_bfloat16_inside_float32_outside(name: Any) -> None:
    model, _ = build_model(ModelConfig(name=name, **SMALL), 3, CPU)
    spy = _Spy()
    stem = model.get_submodule("trunk.0")
    assert isinstance(stem, nn.Sequential)
    stem.insert(1, spy)
    network = training_network(model.eval(), LoopConfig(precision="bf16"))
    images = torch.randn(2, 3, 40, 40)
    rounded: ModelOutput = network(images)
    assert spy.seen == torch.bfloat16
    assert {value.dtype for value in rounded[:3] if value is not None} == {torch.float32}
    whole: ModelOutput = model(images)
    assert spy.seen == torch.float32, "the model as evaluation calls it is not rounded"
    for ours, full in zip(rounded[:3], whole[:3], strict=True):
        if ours is not None and full is not None:
            assert 0 < (ours - full).abs().max() < 0.05 * full.abs().max()


def test_gradients_reach_the_models_own_parameters() -> None:
    model, _ = build_model(ModelConfig(**SMALL), 3, CPU)
    network = training_network(model.train(), LoopConfig(precision="bf16"))
    network(torch.randn(2, 3, 40, 40)).logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())
