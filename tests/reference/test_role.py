"""Compare ROLE with its formula, entry by entry, and check where each gradient goes."""

from __future__ import annotations

from math import log

import pytest
import torch

from tests.reference.plain import loss_of, make_batch, nl, sigmoid, slope_of
from training.config.methods import RoleConfig
from training.losses import total_loss
from training.methods.base import Sizes
from training.methods.role import Role

NUM, NUM_CLASSES, EXPECTED = 6, 4, 1.7


def method_of(num: int = NUM) -> Role:
    torch.manual_seed(1)
    return Role(RoleConfig(expected_positives=EXPECTED), Sizes(NUM_CLASSES, num, num_epochs=4))


def test_loss_is_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of()
    p = [[sigmoid(value) for value in row] for row in model.logits.tolist()]
    q = [[sigmoid(value) for value in row] for row in method.estimates.tolist()]
    entries = [(row, column) for row in range(NUM) for column in range(NUM_CLASSES)]

    def positives(a: list[list[float]]) -> float:
        return sum(float(batch.observed[r, c]) * nl(a[r][c]) for r, c in entries) / len(entries)

    def agreement(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(b[r][c] * nl(a[r][c]) + (1 - b[r][c]) * nl(1 - a[r][c]) for r, c in entries) / len(entries)

    def expected(a: list[list[float]]) -> float:
        return float((sum(a[r][c] for r, c in entries) / NUM - EXPECTED) ** 2 / NUM_CLASSES**2)

    total = (positives(p) + positives(q) + agreement(p, q) + agreement(q, p) + expected(p) + expected(q)) / 2
    assert loss_of(method.step(model, batch, 1)) == pytest.approx(total, rel=1e-5)


def test_agreement_moves_each_side_towards_the_other_and_not_through_it() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES, without_positive=NUM)
    method = method_of()
    parts = method.step(model, batch, 1).parts
    total_loss({"agreement": parts["agreement"]})[0].backward()
    p, q = model.logits.detach().sigmoid(), method.estimates.detach().sigmoid()
    assert model.logits.grad is not None
    assert method.estimates.grad is not None
    # The derivative of 1/2 BCE(p, q) by p's logit is (p - q) / 2 over the number of entries, except for the eps in the
    # logarithms; likewise with p and q exchanged.
    assert torch.allclose(model.logits.grad, (p - q) / (2 * p.numel()), atol=5e-4)
    assert torch.allclose(method.estimates.grad, (q - p) / (2 * p.numel()), atol=5e-4)


def test_expected_positives_move_both_sides_by_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of()
    parts = method.step(model, batch, 1).parts
    total_loss({name: parts[name] for name in ("expected", "expected_estimates")})[0].backward()
    for parameter in (model.logits, method.estimates):
        at = parameter.detach().double()
        slope = slope_of(lambda a: float(0.5 * (a.sigmoid().sum(1).mean() - EXPECTED) ** 2 / NUM_CLASSES**2), at)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), slope, rtol=1e-3, atol=1e-7)


def test_estimates_start_high_where_observed_and_undecided_elsewhere() -> None:
    method = method_of(num=200)
    observed = torch.zeros(200, NUM_CLASSES, dtype=torch.bool)
    observed[::3, 1] = True
    method.start(observed)
    probs = method.estimates.detach().sigmoid()
    assert torch.allclose(probs[observed], torch.tensor(0.995))
    assert 0.4 <= float(probs[~observed].min()) < 0.42
    assert 0.58 < float(probs[~observed].max()) <= 0.6
    assert float(method.estimates.detach()[~observed].abs().max()) <= log(1.5) + 1e-6


def test_only_the_batchs_examples_have_a_gradient() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of(num=NUM + 2)
    total_loss(method.step(model, batch, 1).parts)[0].backward()
    assert method.estimates.grad is not None
    assert not method.estimates.grad[NUM:].any()
    assert method.estimates.grad[:NUM].abs().sum() > 0
    assert method.lr_multiplier == 10
