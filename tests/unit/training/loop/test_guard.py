"""Test the guard against non-finite losses."""

from __future__ import annotations

import pickle

import pytest
import torch

from training.errors import NonFiniteLossError
from training.loop.guard import CHECK_EVERY_STEPS, FiniteGuard

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NAN, INF = float("nan"), float("inf")


def observe(guard: FiniteGuard, step: int, **parts: float) -> bool:
    return bool(guard.observe(step, {name: torch.tensor(value) for name, value in parts.items()}))


def test_finite_losses_pass() -> None:
    guard = FiniteGuard(1, CPU)
    assert observe(guard, 1, a=1.0, b=-2.0)
    guard.check(1)
    guard.check()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_first_bad_step_is_named_with_its_parts(bad: float) -> None:
    guard = FiniteGuard(7, CPU)
    assert observe(guard, 1, a=1.0, b=2.0)
    assert not observe(guard, 2, a=3.0, b=bad)
    with pytest.raises(NonFiniteLossError, match="epoch 7, step 2: a=3, b=") as error:
        guard.check(2)
    assert (error.value.epoch, error.value.step, error.value.parts["a"]) == (7, 2, 3.0)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_nothing_may_change_after_the_first_bad_step_and_its_parts_are_kept() -> None:
    guard = FiniteGuard(1, CPU)
    assert not observe(guard, 3, a=NAN)
    assert not observe(guard, 4, a=5.0)
    with pytest.raises(NonFiniteLossError) as error:
        guard.check()
    assert error.value.step == 3
    assert error.value.parts["a"] != error.value.parts["a"]


def test_on_a_gpu_the_buffer_is_read_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = FiniteGuard(1, CPU)
    monkeypatch.setattr(guard, "_every", CHECK_EVERY_STEPS)
    observe(guard, 2, a=NAN)
    guard.check(2)
    guard.check(CHECK_EVERY_STEPS - 1)
    with pytest.raises(NonFiniteLossError):
        guard.check(CHECK_EVERY_STEPS)
    with pytest.raises(NonFiniteLossError):
        guard.check()
