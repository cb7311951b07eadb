"""Test losses as numerator and count."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses import (
    EPS,
    LossPart,
    assumed_negative_entries,
    binary_entropy,
    masked_mean_part,
    mean_part,
    negative_log,
    total_loss,
)


def test_mean_part_counts_every_entry() -> None:
    part = mean_part(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), weight=0.5)
    assert (float(part.numerator), float(part.count), part.weight) == (12.0, 4.0, 0.5)


def test_masked_mean_part_counts_what_the_mask_holds() -> None:
    part = masked_mean_part(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]))
    assert (float(part.numerator), float(part.count)) == (5.0, 2.0)


def test_total_is_the_weighted_sum_of_means() -> None:
    parts = {
        "a": LossPart(torch.tensor(6.0), torch.tensor(3.0), 0.5),
        "b": LossPart(torch.tensor(8.0), torch.tensor(2.0)),
    }
    loss, values = total_loss(parts)
    assert float(loss) == 5.0
    assert {name: float(value) for name, value in values.items()} == {"a": 1.0, "b": 4.0}


def test_mean_over_nothing_is_zero_with_a_zero_gradient() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    loss, shown = total_loss({"empty": masked_mean_part(values, torch.zeros(2, dtype=torch.bool))})
    loss.backward()
    assert float(shown["empty"]) == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


def test_value_is_detached_and_the_loss_is_not() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    loss, shown = total_loss({"a": mean_part(values, weight=4.0)})
    loss.backward()
    assert not shown["a"].requires_grad
    assert values.grad is not None
    assert values.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("logit", [-200.0, -30.0, 0.0, 30.0, 200.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_entries_and_gradients_are_finite_in_both_tails(logit: float, label: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    entries = assumed_negative_entries(logits, torch.tensor([[label]])) + binary_entropy(logits.sigmoid())
    entries.sum().backward()
    assert torch.isfinite(entries).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_eps_is_inside_the_logarithm() -> None:
    assert float(negative_log(torch.tensor(0.0))) == pytest.approx(-math.log(EPS))
    assert float(binary_entropy(torch.tensor(0.5))) == pytest.approx(-math.log(0.5 + EPS))
