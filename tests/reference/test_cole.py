"""Compare IU, IUN, BCE-LS and GPR's loss without pseudo-labels with their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.plain import gradient_of, loss_of, make_batch, slope_of
from training.config.clip_methods import GprConfig, GrLossConfig
from training.config.methods import BceLsConfig, IuConfig, IunConfig
from training.methods.base import Sizes
from training.methods.gr_loss import Gpr, GrLoss
from training.methods.supervised import BceLs, Iu, Iun

NUM, NUM_CLASSES = 7, 6
SIZES = Sizes(NUM_CLASSES, NUM, num_epochs=8)


def nl(values: np.ndarray) -> np.ndarray:
    return -np.log(values + 1e-5)


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities, observed and true labels of the batch of every test."""
    batch, model = make_batch(NUM, NUM_CLASSES)
    assert batch.true is not None
    probs = 1 / (1 + np.exp(-model.logits.detach().double().numpy()))
    return probs, batch.observed.numpy(), batch.true.numpy()


def test_iun_is_the_mean_over_all_entries_without_the_false_negatives() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    probs, observed, true = parts()
    expected = (observed * nl(probs) + (1 - true) * nl(1 - probs)).mean()
    method = Iun(IunConfig(), SIZES)
    assert loss_of(method.step(model, batch, 1)) == pytest.approx(expected, rel=1e-5)
    # A false negative has no gradient, everything else has.
    hidden = (true == 1) & (observed == 0)
    gradient = gradient_of(method, model, batch, 1).numpy()
    assert hidden.any()
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).all()


@pytest.mark.parametrize("num_negatives", [1, 3, NUM_CLASSES])
def test_iu_is_told_that_many_true_negatives_of_each_image_always_the_same(num_negatives: int) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    probs, observed, true = parts()
    method = Iu(IuConfig(num_negatives=num_negatives), SIZES)
    labels = method.labels(batch).numpy()
    assert ((labels == 1) == (observed == 1)).all()
    assert (true[labels == 0] == 0).all()
    assert ((labels == 0).sum(1) == np.minimum((true == 0).sum(1), num_negatives)).all()
    assert (method.labels(batch).numpy() == labels).all()
    expected = np.where(labels == 1, nl(probs), np.where(labels == 0, nl(1 - probs), 0)).mean()
    assert loss_of(method.step(model, batch, 2)) == pytest.approx(expected, rel=1e-5)


def test_bce_ls_smooths_the_true_labels() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    probs, _, true = parts()
    smooth = np.where(true == 1, 0.9, 0.1)
    expected = (smooth * nl(probs) + (1 - smooth) * nl(1 - probs)).mean()
    assert loss_of(BceLs(BceLsConfig(), SIZES).step(model, batch, 1)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("epoch", [1, 8])
def test_gpr_adds_the_prior_on_the_number_of_positives_to_gr_loss(epoch: int) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES, scale=1.0)
    probs = 1 / (1 + np.exp(-model.logits.detach().double().numpy()))
    # K sigmoid, V, and both robust losses, as in the papers; K and V are held while the gradient is taken.
    share, before = epoch / 8, (epoch - 1) / 8
    soft = 1 / (1 + np.exp(-(10 * before * probs + (-2 - 6 * before))))
    weight = np.exp(-(((probs - (0.5 + 0.3 * share)) / (2 - 1.5 * share)) ** 2) / 2)
    observed = batch.observed.numpy()

    def formula(logits: torch.Tensor) -> float:
        s = 1 / (1 + np.exp(-logits.double().numpy()))
        robust = soft * (1 - s**0.01) / 0.01 + (1 - soft) * (1 - (1 - s) ** 1.5) / 1.5
        entries = np.where(observed == 1, -np.log(s + 1e-7), weight * robust).mean()
        return float(entries + 0.3 * (s.sum(1).mean() - 2.5) ** 2 / NUM_CLASSES**2)

    method = Gpr(GprConfig(slope_last=10, offset_last=-8, q_neg=1.5, expected_positives=2.5, reg_weight=0.3), SIZES)
    assert loss_of(method.step(model, batch, epoch)) == pytest.approx(formula(model.logits.detach()), rel=1e-5)
    slope = slope_of(formula, model.logits.detach().double())
    torch.testing.assert_close(gradient_of(method, model, batch, epoch).double(), slope, rtol=2e-3, atol=1e-6)
    # Without the prior it is GR loss.
    plain = loss_of(GrLoss(GrLossConfig(slope_last=10, offset_last=-8, q_neg=1.5), SIZES).step(model, batch, epoch))
    none = Gpr(GprConfig(slope_last=10, offset_last=-8, q_neg=1.5, reg_weight=0), SIZES)
    assert loss_of(none.step(model, batch, epoch)) == pytest.approx(plain, rel=1e-6)
