"""Test optimisers, the one-cycle schedule, and steps that the guard holds back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from training.config.run import OptimConfig
from training.loop.optim import build_optimizer, build_schedule, guarded_step


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(3, 3), nn.Linear(3, 2)


def make(**settings: Any) -> tuple[Net, Optimizer]:
    torch.manual_seed(0)
    net = Net()
    return net, build_optimizer(OptimConfig(**settings), net)


def backward(net: Net) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)


def follow(steps: int, **settings: Any) -> list[tuple[float, float]]:
    """Return the learning rates of both groups at every step of a run."""
    net, optimizer = make(**settings)
    schedule = build_schedule(OptimConfig(**settings), optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"]))
        backward(net)
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_head_learns_at_its_multiple_at_every_step(schedule: str) -> None:
    rates = follow(20, lr=1e-3, head_lr_multiplier=10.0, schedule=schedule)
    assert all(head == pytest.approx(10 * trunk) for trunk, head in rates)


def test_constant_stays() -> None:
    assert {trunk for trunk, _ in follow(5, lr=1e-3)} == {1e-3}


def test_one_cycle_rises_for_its_share_of_the_run_and_ends_at_its_last_step() -> None:
    rates = [trunk for trunk, _ in follow(100, lr=1e-2, schedule="one_cycle", warm_frac=0.2)]
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert rates.index(max(rates)) == 19
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 / 25 / 1e4)
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)


@pytest.mark.parametrize("warm_frac", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 9, 10, 11])
def test_one_cycle_of_few_steps_has_rates_that_are_rates(steps: int, warm_frac: float) -> None:
    rates = [trunk for trunk, _ in follow(steps, lr=1.0, schedule="one_cycle", warm_frac=warm_frac)]
    assert all(0 < rate <= 1 for rate in rates)
    assert steps == 1 or rates[-1] == min(rates)


def test_one_cycle_after_the_other() -> None:
    net, optimizer = make(lr=1e-2, schedule="one_cycle")
    schedule = build_schedule(OptimConfig(lr=1e-2, schedule="one_cycle"), optimizer, 10)
    rates = []
    for _ in range(25):
        rates.append(optimizer.param_groups[0]["lr"])
        backward(net)
        optimizer.step()
        schedule.step()
    assert rates[10:20] == pytest.approx(rates[:10])
    assert rates[20:] == pytest.approx(rates[:5])


def test_a_cycle_that_is_resumed_goes_on_into_the_next() -> None:
    config = OptimConfig(lr=1e-2, schedule="one_cycle")
    (_, first), (_, second) = make(lr=1e-2), make(lr=1e-2)
    whole, resumed = build_schedule(config, first, 4), build_schedule(config, second, 4)
    for _ in range(3):
        first.step()
        whole.step()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(whole.state_dict())
    for _ in range(6):
        for optimizer, schedule in ((first, whole), (second, resumed)):
            optimizer.step()
            schedule.step()
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_one_cycle_cycles_beta1() -> None:
    _, optimizer = make(lr=1.0, schedule="one_cycle")
    build_schedule(OptimConfig(lr=1.0, schedule="one_cycle"), optimizer, 10)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)


@pytest.mark.parametrize(("name", "decoupled"), [("adam", False), ("adamw", True), ("sgd", False)])
def test_weight_decay_is_on_all_parameters(name: str, decoupled: bool) -> None:
    net, optimizer = make(name=name, lr=1e-2, weight_decay=0.5)
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in net.named_parameters():
        shrunk = (
            before[key] * (1 - 1e-2 * 0.5) if decoupled or name == "sgd" else before[key] - 1e-2 * before[key].sign()
        )
        torch.testing.assert_close(value.detach(), shrunk, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_take_no_part() -> None:
    net = Net()
    net.trunk.weight.requires_grad_(False)
    optimizer = build_optimizer(OptimConfig(), net)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_guarded_step_steps_or_leaves_parameters_and_moments(name: str) -> None:
    net, optimizer = make(name=name, lr=0.1, weight_decay=0.1)
    plain_net, plain_optimizer = make(name=name, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        backward(net)
        guarded_step(optimizer, torch.tensor(True))
        backward(plain_net)
        plain_optimizer.step()
    assert _everything(net, optimizer) == _everything(plain_net, plain_optimizer)

    kept = _everything(net, optimizer)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    guarded_step(optimizer, torch.tensor(False))
    assert _everything(net, optimizer) == kept

    backward(net)
    guarded_step(optimizer, torch.tensor(True))
    assert _everything(net, optimizer) != kept, "held back once, not for ever"


def _everything(net: nn.Module, optimizer: Optimizer) -> list[Any]:
    moments = [value.tolist() for state in optimizer.state_dict()["state"].values() for value in state.values()]
    return [*(value.tolist() for value in net.state_dict().values()), moments]
