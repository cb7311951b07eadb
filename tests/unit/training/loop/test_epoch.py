"""Test that the steps of an epoch never wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kit.scenes import random_batch, tiny_config
from training.loop.epoch import EpochLoop
from training.loop.guard import FiniteGuard
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.models.registry import build_model

CPU = torch.device("cpu")
# Each of these makes the host wait for the GPU: for a number, or for the number of True entries.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")


class _Asked(TorchDispatchMode):
    """Records operations that would make a host wait for its GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for indices in args[1:2]
            for index in (indices if isinstance(indices, list | tuple) else [indices])
        )
        if by_mask or name.startswith(_WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_the_net_catches_what_waits() -> None:
    values = torch.arange(4.0)
    with _Asked() as asked:
        values[values > 1]
        float(values.sum())
        values[torch.tensor([0, 2])]
    assert asked.found == ["index.Tensor", "_local_scalar_dense.default"]


@pytest.mark.parametrize(
    "changes",
    [
        {"method.masked_pass_bn": "eval_both"},
        {"method.masked_pass_bn": "train", "method.cam_normalisation": "batch"},
        {"method.masked_pass_bn": "batch_stats_no_update", "method.correct_gap_bias": True, "loop.precision": "bf16"},
        {"method.name": "em_apl"},
        {"method.name": "assumed_negative", "optim.name": "sgd"},
    ],
    ids=str,
)
def test_a_step_never_waits_for_the_device(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config({"model.weights": "none", **changes})
    model, _ = build_model(config.model, 10, CPU)
    method = build_method(config.method, Sizes(10, 8, config.loop.epochs))
    loop = EpochLoop(config, model.train(), method, 100, CPU)
    guard = FiniteGuard(2, CPU)
    batch = random_batch(8)
    loop.take_step(batch, 2, 1, guard)
    monkeypatch.setattr(guard, "check", lambda step=None: None)  # on a GPU it reads only every 50 steps
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with _Asked() as asked:
        loop.take_step(batch, 2, 2, guard)
    assert asked.found == []
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
