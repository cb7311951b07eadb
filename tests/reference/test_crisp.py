"""Compare CRISP with its formulas: the prior by trying every threshold, the risk entry by entry."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.reference.plain import gradient_of, loss_of, make_batch, nl, sigmoid, slope_of
from training.config.methods import CrispConfig
from training.methods.base import Sizes
from training.methods.crisp import Crisp
from training.priors import estimate_prior

NUM, NUM_CLASSES = 8, 4


def plain_prior(probs: NDArray[np.float64], observed: NDArray[np.bool_]) -> float:
    num, num_positive = len(probs), int(observed.sum())
    slack = sqrt(log(400) / (2 * num)) + sqrt(log(400) / (2 * num_positive))
    best, prior = float("inf"), 0.0
    for z in sorted(probs[observed]):
        share, positive_share = np.mean(probs >= z), np.mean(probs[observed] >= z)
        bound = share / positive_share + 1.01 / positive_share * slack
        if bound < best:
            best, prior = bound, share / positive_share
    return min(prior, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_prior_is_that_of_the_best_of_all_thresholds(seed: int) -> None:
    stream = np.random.default_rng(seed)
    probs, observed = stream.random(300).round(2), stream.random(300) < 0.3  # rounded: with ties
    assert float(estimate_prior(torch.tensor(probs), torch.tensor(observed))) == pytest.approx(
        plain_prior(probs, observed), rel=1e-9
    )


def test_prior_of_separable_scores_is_the_share_of_positives() -> None:
    # 30 % are positive and score high, and a third of them are observed.
    true = torch.arange(20000) % 10 < 3
    observed = true & (torch.arange(20000) % 30 < 10)
    probs = (
        torch.where(true, 0.9, 0.1).double()
        + torch.rand(20000, generator=torch.Generator().manual_seed(0)).double() / 50
    )
    assert float(estimate_prior(probs, observed)) == pytest.approx(0.3, abs=0.01)


def test_prior_without_an_observed_positive_is_zero() -> None:
    assert float(estimate_prior(torch.rand(5).double(), torch.zeros(5, dtype=torch.bool))) == 0


def method_of(warmup_epochs: int = 1, num_epochs: int = 4) -> Crisp:
    return Crisp(CrispConfig(warmup_epochs=warmup_epochs), Sizes(NUM_CLASSES, NUM, num_epochs))


PRIORS = (0.1, 0.5, 0.3, 0.2)


def plain_risk(logits: Tensor, observed: Tensor) -> float:
    total = 0.0
    for column, prior in enumerate(PRIORS):
        p = [sigmoid(value) for value in logits[:, column].tolist()]
        missed = [1 - p[row] for row in range(NUM) if observed[row, column]]
        total += (2 * prior * sum(missed) / len(missed) if missed else 0.0) + abs(sum(p) / NUM - prior)
    return total / NUM_CLASSES


def test_risk_and_its_gradient_are_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    batch.observed[:, 3] = 0  # a class without a positive in the batch
    method = method_of()
    method.priors = torch.tensor(PRIORS)
    assert loss_of(method.step(model, batch, 2)) == pytest.approx(
        plain_risk(model.logits.detach(), batch.observed), rel=1e-5
    )
    slope = slope_of(lambda logits: plain_risk(logits, batch.observed), model.logits.detach().double())
    torch.testing.assert_close(gradient_of(method, model, batch, 2).double(), slope, rtol=2e-3, atol=1e-6)


def test_warm_up_is_assumed_negative_and_priors_are_estimated_from_its_end() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of(warmup_epochs=2, num_epochs=5)
    entries = zip(model.logits.flatten().tolist(), batch.observed.flatten().tolist(), strict=True)
    plain = sum(nl(sigmoid(z)) if y else nl(1 - sigmoid(z)) for z, y in entries) / (NUM * NUM_CLASSES)
    assert loss_of(method.step(model, batch, 2)) == pytest.approx(plain, rel=1e-5)
    assert [epoch for epoch in range(1, 6) if method.needs_train_scores(epoch)] == [2, 3, 4]
    metrics = method.end_epoch(2, model.logits.detach(), batch.observed > 0)
    assert metrics["train/class_prior"] == pytest.approx(float(method.priors.mean()))
    for column in range(NUM_CLASSES):
        probs = model.logits.detach().double().sigmoid()[:, column].numpy()
        observed = (batch.observed[:, column] > 0).numpy()
        assert float(method.priors[column]) == pytest.approx(
            plain_prior(probs, observed) if observed.any() else 0.0, rel=1e-5
        )
