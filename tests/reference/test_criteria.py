"""Compare criteria without true labels with their formulas, and with what they estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.audit.plain_metrics import plain_criteria, plain_metrics
from training.criteria import CRITERIA, CoveringRate, EstimatedAccuracy, ObservedMap, measure_criteria
from training.selection import LABEL_FREE


def drawn(true: Tensor, seed: int = 0) -> Tensor:
    """Return one positive per image, each with equal probability."""
    chosen = torch.where(true, torch.rand(true.shape, generator=torch.Generator().manual_seed(seed)), -1.0).argmax(1)
    return torch.nn.functional.one_hot(chosen, true.shape[1]).bool() & true


def make_labels(num: int, num_classes: int = 6, share: float = 0.35) -> Tensor:
    true = torch.rand(num, num_classes, generator=torch.Generator().manual_seed(1)) < share
    true[:, 0] |= ~true.any(1)
    return true


def test_every_label_free_way_to_select_has_its_criterion() -> None:
    assert {each.metric for each in CRITERIA} == set(LABEL_FREE.values())


def test_covering_rate_by_hand() -> None:
    logits = torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0], [9.0, 8.0, 7.0, 6.0, 5.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    observed = torch.tensor(
        [[False, False, True, False, False], [False, False, False, True, False], [True] + [False] * 4]
    )
    # Third of its image: covered; fourth: not; four equal scores share the worst rank: not.
    assert CoveringRate().measure(logits, observed) == pytest.approx(100 / 3)
    none = torch.zeros(3, 5, dtype=torch.bool)
    assert CoveringRate().measure(logits, none) == 0.0
    # Two classes leave one place.
    assert CoveringRate().measure(torch.tensor([[1.0, 0.0]]), torch.tensor([[False, True]])) == 0.0


def test_covering_rate_estimates_recall_on_the_true_labels() -> None:
    true = make_labels(4000)
    logits = 1.5 * true.float() + torch.randn(true.shape, generator=torch.Generator().manual_seed(2))
    top = torch.zeros_like(true).scatter(1, logits.topk(3, 1).indices, True)
    recall = 100 * float(((top & true).sum(1) / true.sum(1)).mean())
    rates = [CoveringRate().measure(logits, drawn(true, seed)) for seed in range(10, 20)]
    assert np.mean(rates) == pytest.approx(recall, abs=0.6)


def test_estimated_accuracy_by_hand_and_near_the_truth() -> None:
    # One class whose positives are told apart: 4 of 10 images, two of them observed. Probabilities .8 and .1.
    probs = torch.tensor([0.8] * 4 + [0.1] * 6).double()
    logits, observed = probs.logit().float().unsqueeze(1), (torch.arange(10) < 2).unsqueeze(1)
    # Prior .4 / 1; 2 x .4 x .2 + .38 - .4 = .14, which is the mean of |p - y| over all.
    assert EstimatedAccuracy().measure(logits, observed) == pytest.approx(86.0, abs=1e-4)
    true = make_labels(6000)
    scores = 6 * (true.float() - 0.5) + torch.randn(true.shape, generator=torch.Generator().manual_seed(3))
    # A fair sample of the positives of each class, of which one per image is none.
    fair = true & (torch.rand(true.shape, generator=torch.Generator().manual_seed(4)) < 0.5)
    exact = 100 * (1 - float((scores.double().sigmoid() - true.double()).abs().mean()))
    assert EstimatedAccuracy().measure(scores, fair) == pytest.approx(exact, abs=1.0)
    assert EstimatedAccuracy().measure(logits, torch.zeros(10, 1, dtype=torch.bool)) == pytest.approx(62.0, abs=1e-4)


def test_the_audit_computes_the_same_by_other_code() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        logits = (3 * torch.randn(60, 7, generator=generator)).round(decimals=1)  # with ties
        observed = drawn(make_labels(60, 7), seed)
        observed[:4] = False
        found = measure_criteria(logits, observed)
        assert found == pytest.approx(plain_criteria(logits.numpy(), observed.numpy()))
        plain = plain_metrics("val", logits.numpy(), None, observed.numpy())
        assert ObservedMap().measure(logits, observed) == pytest.approx(plain["val/observed_mAP"])
    assert measure_criteria(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)) == {}
    assert all(
        math.isfinite(value) for value in measure_criteria(torch.full((2, 3), 200.0), torch.eye(2, 3).bool()).values()
    )
