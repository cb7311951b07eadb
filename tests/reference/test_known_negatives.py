"""Compare what a label that is known to be negative costs with plain formulas, for every method."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch

from tests.reference.plain import loss_of, make_batch, nl, sigmoid
from training.methods.base import Method
from training.methods.registry import make_method

NUM, NUM_CLASSES = 7, 6
ROW, COLUMN = 2, 3


def bce(logit: float) -> float:
    return nl(1 - sigmoid(logit))


def smoothed(logit: float) -> float:
    return 0.9 * bce(logit) + 0.1 * nl(sigmoid(logit))


def focal(logit: float) -> float:
    return sigmoid(logit) ** 2 * -log(1 - sigmoid(logit))


def asl(logit: float) -> float:
    prob = max(sigmoid(logit) - 0.05, 0)
    return prob**4 * -log(1 - prob)


COSTS: dict[str, tuple[dict[str, Any], Any]] = {
    "assumed_negative": ({}, bce),
    "an_ls": ({}, smoothed),
    "wan": ({}, bce),
    "em": ({}, bce),
    "epr": ({}, bce),
    "focal": ({}, focal),
    "asl": ({}, asl),
    "hill": ({}, bce),
    "splc": ({"positive_threshold": 0.3, "warmup_epochs": 0}, focal),
    "gr_loss": ({}, bce),
    "gpr": ({}, bce),
    "em_apl": ({}, bce),
    "large_loss": ({"delta_rel_percent": 100.0}, bce),
    "crisp": ({"warmup_epochs": 1}, bce),
    "mime": ({}, bce),
    "crisp, warm-up": ({"warmup_epochs": 4}, bce),
}
"""Method -> settings, and the loss of a logit whose label is known to be negative. ROLE has a test of its own."""


def loss_without(method: Method, logit: float, known: bool) -> float:
    """Return B x C times the loss with one entry at a logit, whose label is known to be negative or that of nobody."""
    batch, model = make_batch(NUM, NUM_CLASSES)
    negative = torch.zeros(NUM, NUM_CLASSES, dtype=torch.bool)
    negative[ROW, COLUMN] = known
    with torch.no_grad():
        model.logits[ROW, COLUMN] = logit
    assert batch.observed[ROW, COLUMN] == 0
    return NUM * NUM_CLASSES * loss_of(method.step(model, replace(batch, negative=negative), 2))


@pytest.mark.parametrize("name", COSTS)
def test_known_negative_costs_the_formula(name: str) -> None:
    settings, cost = COSTS[name]
    method = make_method(
        name.split(",")[0], num_classes=NUM_CLASSES, num_examples=NUM, num_epochs=4, embedding_dim=4, **settings
    )
    # All else in the loss is the same at both logits, except terms over the whole batch, which do not depend on what is
    # known: they leave with the second difference.
    for high, low in ((3.0, -2.0), (1.0, 0.5)):
        batch_terms = 0.0
        if name in ("epr", "gpr", "crisp"):
            plain = make_method(
                name, num_classes=NUM_CLASSES, num_examples=NUM, num_epochs=4, embedding_dim=4, **settings
            )
            unknown = loss_without(plain, high, False) - loss_without(plain, low, False)
            own = {"epr": 0.0, "crisp": 0.0, "gpr": _gr_rise(high, low)}[name]
            batch_terms = unknown - own
        rise = loss_without(method, high, True) - loss_without(method, low, True)
        assert rise - batch_terms == pytest.approx(cost(high) - cost(low), abs=2e-3), name


def _gr_rise(high: float, low: float) -> float:
    """Return the difference that GR Loss alone makes for an unknown label."""
    plain = make_method("gr_loss", num_classes=NUM_CLASSES, num_examples=NUM, num_epochs=4)
    gpr = make_method("gpr", num_classes=NUM_CLASSES, num_examples=NUM, num_epochs=4, reg_weight=0.0)
    rises = [loss_without(each, high, False) - loss_without(each, low, False) for each in (plain, gpr)]
    return rises[1]


def test_role_charges_both_sides_and_starts_its_estimates_at_the_known_label() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    negative = batch.observed == 0
    role = make_method("role", num_classes=NUM_CLASSES, num_examples=NUM, num_epochs=4, expected_positives=1.0)
    role.start(batch.observed > 0, negative)
    estimates = role.get_parameter("estimates").detach().sigmoid()
    assert torch.allclose(estimates, torch.where(negative, 0.005, 0.995))
    without, known = (
        role.step(model, each, 1).parts["positives"].numerator.detach()
        for each in (batch, replace(batch, negative=negative))
    )
    probs = model.logits.detach().sigmoid()
    expected = sum(nl(1 - float(p)) for side in (probs, estimates) for p in side[negative])
    assert float(known - without) == pytest.approx(expected, rel=1e-4)
