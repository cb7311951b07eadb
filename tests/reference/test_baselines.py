"""Compare baselines and bounds with their formulas, written entry by entry in the literature's notation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.kit.scenes import random_batch
from tests.reference.plain import FixedLogits, nl, sigmoid
from training.config.methods import (
    AnLsConfig,
    AssumedNegativeConfig,
    EntropyMaximisationConfig,
    FullLabelsConfig,
    WanConfig,
)
from training.data.batches import Batch
from training.losses import total_loss
from training.methods.base import Sizes
from training.methods.registry import build_method

NUM_CLASSES = 6
SIZES = Sizes(NUM_CLASSES, num_examples=7, num_epochs=4)


def entropy(prob: float) -> float:
    """Return H of one binary label."""
    return prob * nl(prob) + (1 - prob) * nl(1 - prob)


def an(prob: float, label: int) -> float:
    """Return BCE of one label."""
    return nl(prob) if label else nl(1 - prob)


METHODS: dict[str, tuple[Any, Any]] = {
    "assumed_negative": (AssumedNegativeConfig(), lambda prob, observed, true: an(prob, observed)),
    "full_labels": (FullLabelsConfig(), lambda prob, observed, true: an(prob, true)),
    "wan": (WanConfig(), lambda prob, observed, true: nl(prob) if observed else nl(1 - prob) / (NUM_CLASSES - 1)),
    "wan .3": (
        WanConfig(negative_weight=0.3),
        lambda prob, observed, true: nl(prob) if observed else 0.3 * nl(1 - prob),
    ),
    "em": (EntropyMaximisationConfig(), lambda prob, observed, true: nl(prob) if observed else -0.1 * entropy(prob)),
    "an_ls": (AnLsConfig(), lambda prob, observed, true: 0.9 * an(prob, observed) + 0.1 * an(prob, 1 - observed)),
    "an_ls .3": (
        AnLsConfig(smoothing=0.3),
        lambda prob, observed, true: 0.7 * an(prob, observed) + 0.3 * an(prob, 1 - observed),
    ),
    "em .02": (
        EntropyMaximisationConfig(entropy_weight=0.02),
        lambda prob, observed, true: nl(prob) if observed else -0.02 * entropy(prob),
    ),
}


def make_batch(without_positive: int = 1) -> tuple[Batch, FixedLogits]:
    """Return 7 examples, the first without a positive, and logits that reach into both tails of the sigmoid."""
    batch = random_batch(7, NUM_CLASSES, size=8, seed=4, without_positive=without_positive)
    logits = 4 * torch.randn(7, NUM_CLASSES, generator=torch.Generator().manual_seed(5))
    logits[0, 0], logits[1, 1] = 25.0, -25.0
    return batch, FixedLogits(logits)


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_the_mean_of_the_formula_over_all_entries(name: str) -> None:
    config, formula = METHODS[name]
    batch, model = make_batch()
    assert batch.true is not None
    loss, values = total_loss(build_method(config, SIZES).step(model, batch, 1).parts)
    expected = [
        formula(sigmoid(float(logit)), int(observed), int(true))
        for logits, observed_row, true_row in zip(model.logits.detach(), batch.observed, batch.true, strict=True)
        for logit, observed, true in zip(logits, observed_row, true_row, strict=True)
    ]
    # At a logit of 25, single precision loses 1 - p, as in the released code of the methods; eps bounds the effect on
    # the loss.
    assert float(loss.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert sum(float(value) for value in values.values()) == pytest.approx(float(loss.detach()))
    assert [images is batch.weak for images in model.seen] == [True], "one pass, of the weak view"


@pytest.mark.parametrize("name", METHODS)
def test_gradient_is_that_of_the_formula(name: str) -> None:
    config, formula = METHODS[name]
    batch, model = make_batch()
    assert batch.true is not None
    total_loss(build_method(config, SIZES).step(model, batch, 1).parts)[0].backward()
    step = 1e-4
    for row, column in [(2, 0), (3, 4), (5, 5)]:
        logit = float(model.logits[row, column].detach())
        labels = int(batch.observed[row, column]), int(batch.true[row, column])
        rise = formula(sigmoid(logit + step), *labels) - formula(sigmoid(logit - step), *labels)
        assert model.logits.grad is not None
        np.testing.assert_allclose(
            float(model.logits.grad[row, column]), rise / (2 * step) / model.logits.numel(), rtol=1e-3, atol=1e-7
        )


def test_em_of_a_batch_without_positives_is_negative_and_finite() -> None:
    batch, model = make_batch(without_positive=7)
    loss, _ = total_loss(build_method(EntropyMaximisationConfig(), SIZES).step(model, batch, 1).parts)
    assert torch.isfinite(loss)
    assert float(loss.detach()) < 0


def test_full_labels_alone_reads_true_labels() -> None:
    batch, model = make_batch()
    assert batch.true is not None
    flipped = Batch(batch.index, batch.weak, batch.strong, batch.observed, 1 - batch.true)
    for config, _ in METHODS.values():
        method = build_method(config, SIZES)
        values = [float(total_loss(method.step(model, one, 1).parts)[0].detach()) for one in (batch, flipped)]
        assert (values[0] != values[1]) == method.needs_true_labels == (config.name == "full_labels")
