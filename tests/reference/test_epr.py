"""Compare EPR with its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.plain import gradient_of, loss_of, make_batch
from training.config.methods import EprConfig
from training.methods.base import Sizes
from training.methods.epr import Epr

NUM, NUM_CLASSES = 7, 6
SIZES = Sizes(NUM_CLASSES, NUM, num_epochs=4)


def formula(logits: np.ndarray, observed: np.ndarray, expected: float) -> float:
    """Return ``mean[y nl(s)] + ((mean_i sum_c s) - k)^2 / C^2``."""
    probs = 1 / (1 + np.exp(-logits))
    positives = (observed * -np.log(probs + 1e-5)).mean()
    return float(positives + (probs.sum(1).mean() - expected) ** 2 / NUM_CLASSES**2)


@pytest.mark.parametrize("expected", [1.5, 2.9, 0.1])
@pytest.mark.parametrize("without_positive", [1, NUM])
def test_loss_is_the_formula(expected: float, without_positive: int) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES, without_positive=without_positive)
    found = loss_of(Epr(EprConfig(expected_positives=expected), SIZES).step(model, batch, 1))
    assert found == pytest.approx(
        formula(model.logits.detach().double().numpy(), batch.observed.numpy(), expected), rel=1e-5
    )


def test_gradient_is_that_of_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    gradient = gradient_of(Epr(EprConfig(expected_positives=2.0), SIZES), model, batch, 1)
    logits, observed, step = model.logits.detach().double().numpy(), batch.observed.numpy(), 1e-5
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            change = np.zeros_like(logits)
            change[row, column] = step
            rise = (formula(logits + change, observed, 2.0) - formula(logits - change, observed, 2.0)) / (2 * step)
            assert float(gradient[row, column]) == pytest.approx(rise, rel=1e-3, abs=1e-7)
