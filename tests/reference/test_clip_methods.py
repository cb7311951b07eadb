"""Compare VLPL, DAMP's pseudo-labels and AEVLP's loss with their formulas in NumPy and double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.kit.clip_scores import make_scores
from tests.reference.plain import gradient_of, loss_of, make_batch, slope_of
from training.config.clip_methods import AevlpConfig, GprConfig, VlplConfig
from training.data.store.clip_scores import ClipScores
from training.methods.base import Sizes
from training.methods.clip_labels import find_damp_labels
from training.methods.gr_loss import Aevlp, Gpr
from training.methods.vlpl import Vlpl

NUM, NUM_CLASSES = 12, 10
SIZES = Sizes(NUM_CLASSES, NUM, num_epochs=8)
LABELS: dict[str, Any] = {"tile_threshold": 0.1, "positive_threshold": 0.2, "top_k": 3, "negative_frac": 0.25}


def plain_damp_labels(scores: ClipScores, observed: Any, **settings: Any) -> Any:
    """Return DAMP's labels, image by image and class by class."""
    found = np.zeros((NUM, NUM_CLASSES), int)
    for row in range(NUM):
        whole, high, low = (matrix[row].tolist() for matrix in (scores.whole, scores.tile_max, scores.tile_min))
        own = [whole[label] for label in range(NUM_CLASSES) if observed[row][label]]
        eta = min(own[0] if own else 0.0, settings["tile_threshold"])
        final = [
            (whole[label] + (high[label] if high[label] > eta else low[label])) / 2 for label in range(NUM_CLASSES)
        ]
        best = sorted(range(NUM_CLASSES), key=lambda label: -final[label])
        for label in best[NUM_CLASSES - int(settings["negative_frac"] * NUM_CLASSES) :]:
            found[row][label] = -1
        for label in best[: settings["top_k"]]:
            if final[label] >= settings["positive_threshold"]:
                found[row][label] = 1
        found[row][[label for label in range(NUM_CLASSES) if observed[row][label]]] = 0
    return found


def test_damp_labels_are_those_of_the_paper() -> None:
    batch, _ = make_batch(NUM, NUM_CLASSES)
    observed, scores = batch.observed > 0, make_scores(NUM, NUM_CLASSES, seed=3)
    seen = set()
    for changes in ({}, {"tile_threshold": 0.0}, {"positive_threshold": 0.0}, {"top_k": 1}, {"negative_frac": 1.0}):
        settings = LABELS | changes
        found = find_damp_labels(scores, observed, **settings).numpy()
        assert np.array_equal(found, plain_damp_labels(scores, observed.tolist(), **settings)), changes
        assert {-1, 0, 1} == set(np.unique(found))
        seen.add(found.tobytes())
    assert len(seen) == 5, "each setting decides something"


def test_equal_scores_give_equal_labels_everywhere() -> None:
    even = torch.full((4, 6), 0.5)
    found = find_damp_labels(ClipScores(even, even, even), torch.zeros(4, 6, dtype=torch.bool), **LABELS)
    assert found.tolist() == 4 * [[1, 1, 1, 0, 0, -1]]


def test_vlpl_is_em_with_pseudo_positives() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    scores = make_scores(NUM, NUM_CLASSES)
    method = Vlpl(VlplConfig(entropy_weight=0.2, pseudo_weight=0.6, smoothing=0.15, positive_threshold=0.3), SIZES)
    method.take_scores(scores, batch.observed > 0)
    observed = batch.observed.numpy()
    found = (scores.whole.numpy() > 0.3) & (observed == 0)
    assert 0 < found.sum() < found.size

    def formula(logits: torch.Tensor) -> float:
        p = 1 / (1 + np.exp(-logits.double().numpy()))
        positive, negative = -np.log(p + 1e-5), -np.log(1 - p + 1e-5)
        entropy = p * positive + (1 - p) * negative
        labelled = 0.6 * (0.85 * positive + 0.15 * negative)
        return float(np.where(observed == 1, positive, np.where(found, labelled, -0.2 * entropy)).mean())

    assert loss_of(method.step(model, batch, 1)) == pytest.approx(formula(model.logits.detach()), rel=1e-5)
    slope = slope_of(formula, model.logits.detach().double())
    torch.testing.assert_close(gradient_of(method, model, batch, 1).double(), slope, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("epoch", [1, 8])
def test_aevlp_is_gpr_with_pseudo_labels(epoch: int) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES, scale=2.0)
    observed, scores = batch.observed.numpy(), make_scores(NUM, NUM_CLASSES, seed=3)
    config = AevlpConfig(
        slope_last=10,
        offset_last=-8,
        q_neg=1.5,
        expected_positives=2.5,
        reg_weight=0.3,
        least_weight=0.3,
        most_weight=0.6,
        positive_share=0.8,
        **LABELS,
    )
    method = Aevlp(config, SIZES)
    method.take_scores(scores, batch.observed > 0)
    found = plain_damp_labels(scores, batch.observed.tolist(), **LABELS)
    probs = 1 / (1 + np.exp(-model.logits.detach().double().numpy()))
    # K, V and the weights of pseudo-labels are held while the gradient is taken.
    share, before = epoch / 8, (epoch - 1) / 8
    soft = 1 / (1 + np.exp(-(10 * before * probs + (-2 - 6 * before))))
    weight = np.exp(-(((probs - (0.5 + 0.3 * share)) / (2 - 1.5 * share)) ** 2) / 2)
    clipped = np.clip(1 - weight, 0.3, 0.6)

    def formula(logits: torch.Tensor) -> float:
        p = 1 / (1 + np.exp(-logits.double().numpy()))
        positive, negative = -np.log(p + 1e-7), -np.log(1 - p + 1e-7)
        robust = soft * (1 - p**0.01) / 0.01 + (1 - soft) * (1 - (1 - p) ** 1.5) / 1.5
        entries = np.select(
            [observed == 1, found == 1, found == -1],
            [positive, clipped * (0.8 * positive + 0.2 * negative), weight * negative],
            weight * robust,
        )
        return float(entries.mean() + 0.3 * (p.sum(1).mean() - 2.5) ** 2 / NUM_CLASSES**2)

    assert loss_of(method.step(model, batch, epoch)) == pytest.approx(formula(model.logits.detach()), rel=1e-5)
    slope = slope_of(formula, model.logits.detach().double())
    torch.testing.assert_close(gradient_of(method, model, batch, epoch).double(), slope, rtol=2e-3, atol=1e-6)


def test_without_any_pseudo_label_aevlp_is_gpr() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    aevlp, gpr = Aevlp(AevlpConfig(top_k=0, negative_frac=0), SIZES), Gpr(GprConfig(), SIZES)
    aevlp.take_scores(make_scores(NUM, NUM_CLASSES), batch.observed > 0)
    assert loss_of(aevlp.step(model, batch, 3)) == pytest.approx(loss_of(gpr.step(model, batch, 3)), rel=1e-6)


def test_the_share_of_pseudo_positives_that_are_true_is_reported() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    assert batch.true is not None
    hidden = (batch.true > 0) & (batch.observed == 0)
    scores = torch.where(hidden, 0.9, 0.01)
    for method in (Vlpl(VlplConfig(), SIZES), Aevlp(AevlpConfig(top_k=NUM_CLASSES), SIZES)):
        method.take_scores(ClipScores(scores, scores, scores), batch.observed > 0)
        sums = {name: float(value) for name, value in method.step(model, batch, 1).sums.items()}
        metrics = method.epoch_metrics(sums)
        assert (metrics["train/rejection_precision"], metrics["train/rejection_recall"]) == (1, 1)
