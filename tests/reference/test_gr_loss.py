"""Compare GR Loss with its formula, entry by entry, and its schedule with the release's, worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from tests.reference.plain import gradient_of, loss_of, make_batch, sigmoid
from training.config.clip_methods import GrLossConfig
from training.data.batches import Batch
from training.methods.base import Sizes
from training.methods.gr_loss import GrLoss
from training.models.base import ModelOutput

NUM, NUM_CLASSES = 7, 6
SIZES = Sizes(NUM_CLASSES, NUM, num_epochs=8)
# For 8 epochs with the released defaults: w = 2 (t - 1) / 8, b = -2, mu = .5 + .3 t / 8, sigma = 2 - 1.5 t / 8.
SCHEDULE = {1: (0.0, -2.0, 0.5375, 1.8125), 2: (0.25, -2.0, 0.575, 1.625), 8: (1.75, -2.0, 0.8, 0.5)}


def entry(logit: float, held: float, label: int, epoch: int, q_pos: float = 0.01, q_neg: float = 1.0) -> float:
    """Return the loss of an entry, with K and V computed from a constant logit."""
    prob, at = sigmoid(logit), sigmoid(held)
    if label:
        return -log(prob + 1e-7)
    w, b, mu, sigma = SCHEDULE[epoch]
    soft, weight = 1 / (1 + exp(-(w * at + b))), exp(-0.5 * ((at - mu) / sigma) ** 2)
    return float(weight * (soft * (1 - prob**q_pos) / q_pos + (1 - soft) * (1 - (1 - prob) ** q_neg) / q_neg))


@pytest.mark.parametrize("epoch", SCHEDULE)
@pytest.mark.parametrize(("q_pos", "q_neg"), [(0.01, 1.0), (0.5, 0.7)])
def test_loss_is_the_mean_of_the_formula(epoch: int, q_pos: float, q_neg: float) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    expected = sum(
        entry(logit, logit, int(label), epoch, q_pos, q_neg)
        for logits, labels in zip(model.logits.tolist(), batch.observed.tolist(), strict=True)
        for logit, label in zip(logits, labels, strict=True)
    )
    method = GrLoss(GrLossConfig(q_pos=q_pos, q_neg=q_neg), SIZES)
    assert loss_of(method.step(model, batch, epoch)) == pytest.approx(expected / (NUM * NUM_CLASSES), rel=1e-5)


@pytest.mark.parametrize("epoch", SCHEDULE)
def test_gradient_is_that_of_the_formula_with_weights_held(epoch: int) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES, scale=2.0)
    gradient = gradient_of(GrLoss(GrLossConfig(), SIZES), model, batch, epoch)
    step = 1e-4
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            logit, label = float(model.logits[row, column].detach()), int(batch.observed[row, column])
            rise = (entry(logit + step, logit, label, epoch) - entry(logit - step, logit, label, epoch)) / (2 * step)
            assert float(gradient[row, column]) == pytest.approx(rise / (NUM * NUM_CLASSES), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("q", [0.01, 0.5, 1.0])
def test_certain_scores_have_finite_gradients(q: float) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    for logit in (-200.0, 200.0):
        with torch.no_grad():
            model.logits.fill_(logit)
        assert torch.isfinite(gradient_of(GrLoss(GrLossConfig(q_pos=q, q_neg=q), SIZES), model, batch, 2)).all()


def test_robust_losses_at_their_ends() -> None:
    # q = 1 is the mean absolute error, q -> 0 the cross-entropy.
    for q, expected in ((1.0, 1 - sigmoid(0.7)), (1e-3, -log(sigmoid(0.7)))):
        config = GrLossConfig(q_pos=q, offset_first=100, width_first=100, width_last=100)
        model, none = _fixed(0.7)
        assert loss_of(GrLoss(config, SIZES).step(model, none, 1)) == pytest.approx(expected, rel=1e-3)


class _One(torch.nn.Module):
    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.full((1, 1), logit))

    def forward(self, images: torch.Tensor) -> ModelOutput:
        return ModelOutput(self.logits, self.logits[:, :, None, None])


def _fixed(logit: float) -> tuple[_One, Batch]:
    """Return one image with one unobserved label."""
    return _One(logit), Batch(torch.tensor([0]), torch.zeros(1, 3, 8, 8), None, torch.zeros(1, 1), None)
