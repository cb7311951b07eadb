"""Compare focal, ASL, Hill and SPLC with their formulas, entry by entry.

Gradients are compared with differences, holding the weights constant where the release does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch

from tests.reference.plain import gradient_of, loss_of, make_batch, sigmoid
from training.config.methods import AslConfig, FocalConfig, HillConfig, SplcConfig
from training.methods.base import Sizes
from training.methods.registry import build_method

NUM, NUM_CLASSES = 7, 6
SIZES = Sizes(NUM_CLASSES, NUM, num_epochs=4)

Entry = Callable[[float, float, int], float]
"""Takes the logit, the logit at which weights without gradient are computed, and the observed label."""


def asymmetric(gamma_pos: float, gamma_neg: float, clip: float) -> Entry:
    """Return the ASL loss of an entry."""

    def entry(logit: float, held: float, label: int) -> float:
        prob, at = sigmoid(logit), sigmoid(held)
        if label:
            return float(-((1 - at) ** gamma_pos) * log(max(prob, 1e-8)))
        return float(-(max(at - clip, 0) ** gamma_neg) * log(max(1 - max(prob - clip, 0), 1e-8)))

    return entry


def hill(lamb: float, margin: float, gamma: float) -> Entry:
    """Return the Hill loss of an entry."""

    def entry(logit: float, held: float, label: int) -> float:
        if label:
            prob = sigmoid(logit - margin)
            return float(-((1 - prob) ** gamma) * log(prob))
        return (lamb - sigmoid(logit)) * sigmoid(logit) ** 2

    return entry


def splc(tau: float, margin: float, gamma: float, corrects: bool) -> Entry:
    """Return the SPLC loss of an entry."""

    def entry(logit: float, held: float, label: int) -> float:
        moved, at = (logit - margin, held - margin) if label else (logit, held)
        target = 1 if label or (corrects and sigmoid(at) > tau) else 0
        prob = sigmoid(moved)
        return float(-((1 - prob) ** gamma) * log(prob)) if target else float(-(prob**gamma) * log(1 - prob))

    return entry


CASES: dict[str, tuple[Any, Entry, int]] = {
    "focal": (FocalConfig(), asymmetric(2, 2, 0), 1),
    "focal 1": (FocalConfig(gamma=1), asymmetric(1, 1, 0), 1),
    "asl": (AslConfig(), asymmetric(0, 4, 0.05), 1),
    "asl, both": (AslConfig(gamma_pos=1, gamma_neg=3, clip=0.2), asymmetric(1, 3, 0.2), 1),
    "hill": (HillConfig(), hill(1.5, 1, 2), 1),
    "hill, other": (HillConfig(hill_lambda=1.2, margin=0.5, gamma=1), hill(1.2, 0.5, 1), 1),
    "splc in warm-up": (SplcConfig(), splc(0.6, 1, 2, corrects=False), 1),
    "splc": (SplcConfig(), splc(0.6, 1, 2, corrects=True), 2),
    "splc, no warm-up": (
        SplcConfig(warmup_epochs=0, positive_threshold=0.3, margin=0.5),
        splc(0.3, 0.5, 2, corrects=True),
        1,
    ),
    "splc, long warm-up": (SplcConfig(warmup_epochs=3), splc(0.6, 1, 2, corrects=False), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_mean_of_the_formula(name: str) -> None:
    config, entry, epoch = CASES[name]
    batch, model = make_batch(NUM, NUM_CLASSES)
    expected = sum(
        entry(logit, logit, int(label))
        for logits, labels in zip(model.logits.tolist(), batch.observed.tolist(), strict=True)
        for logit, label in zip(logits, labels, strict=True)
    )
    assert loss_of(build_method(config, SIZES).step(model, batch, epoch)) == pytest.approx(
        expected / (NUM * NUM_CLASSES), rel=1e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_formula(name: str) -> None:
    config, entry, epoch = CASES[name]
    batch, model = make_batch(NUM, NUM_CLASSES, scale=2.0)
    gradient = gradient_of(build_method(config, SIZES), model, batch, epoch)
    step = 1e-4
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            logit, label = float(model.logits[row, column].detach()), int(batch.observed[row, column])
            rise = (entry(logit + step, logit, label) - entry(logit - step, logit, label)) / (2 * step)
            assert float(gradient[row, column]) == pytest.approx(rise / (NUM * NUM_CLASSES), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_certain_and_wrong_stays_finite(name: str) -> None:
    config, _, epoch = CASES[name]
    batch, model = make_batch(NUM, NUM_CLASSES)
    with torch.no_grad():
        model.logits.copy_(torch.where(batch.observed > 0, -120.0, 120.0))
    method = build_method(config, SIZES)
    assert 0 <= loss_of(method.step(model, batch, epoch)) < float("inf")
    assert torch.isfinite(gradient_of(method, model, batch, epoch)).all()


def test_splc_counts_what_it_corrects() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    assert batch.true is not None
    sums = build_method(SplcConfig(), SIZES).step(model, batch, 2).sums
    pairs = [
        (int(true), sigmoid(logit) > 0.6)
        for logits, labels, trues in zip(
            model.logits.tolist(), batch.observed.tolist(), batch.true.tolist(), strict=True
        )
        for logit, label, true in zip(logits, labels, trues, strict=True)
        if not label
    ]
    found = [true for true, corrected in pairs if corrected]
    assert 0 < sum(found) < len(found)
    metrics = build_method(SplcConfig(), SIZES).epoch_metrics({name: float(value) for name, value in sums.items()})
    base_rate = sum(true for true, _ in pairs) / len(pairs)
    assert metrics["train/rejected_frac"] == pytest.approx(len(found) / len(pairs))
    assert metrics["train/rejection_precision"] == pytest.approx(sum(found) / len(found))
    assert metrics["train/rejection_recall"] == pytest.approx(sum(found) / sum(true for true, _ in pairs))
    assert metrics["train/rejection_lift"] == pytest.approx(sum(found) / len(found) / base_rate)
