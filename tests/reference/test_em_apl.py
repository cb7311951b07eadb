"""Compare EM + APL with its formula, entry by entry, and its rounds of pseudo-labelling with counts by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from tests.reference.plain import gradient_of, loss_of, make_batch, nl, sigmoid, slope_of
from training.config.methods import EmAplConfig
from training.methods.base import Sizes
from training.methods.em_apl import UNKNOWN, EmApl

NUM, NUM_CLASSES, ALPHA, BETA = 6, 4, 0.3, 0.7


def method_of(num_epochs: int = 4, warmup_epochs: int = 2, proportion: float = 0.9, num: int = NUM) -> EmApl:
    settings = {
        "entropy_weight": ALPHA,
        "pseudo_weight": BETA,
        "warmup_epochs": warmup_epochs,
        "negative_proportion": proportion,
    }
    return EmApl(EmAplConfig.model_validate(settings), Sizes(NUM_CLASSES, num, num_epochs))


def formula(logits: list[list[float]], observed: Tensor, pseudo: Tensor) -> float:
    total = 0.0
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            p, t = sigmoid(logits[row][column]), float(pseudo[row, column])
            if observed[row, column]:
                total += nl(p)
            elif t == UNKNOWN:
                total -= ALPHA * (p * nl(p) + (1 - p) * nl(1 - p))
            else:
                total += BETA * (t * nl(p) + (1 - t) * nl(1 - p))
    return total / (NUM * NUM_CLASSES)


def test_loss_and_its_gradient_are_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of()
    method.pseudo_labels[1::2, ::2] = torch.tensor([[0.1, 0.4], [0.0, 0.2], [0.9, 0.3]])

    def plain(logits: Tensor) -> float:
        return formula(logits.tolist(), batch.observed, method.pseudo_labels)

    assert loss_of(method.step(model, batch, 3)) == pytest.approx(plain(model.logits.detach()), rel=1e-5)
    torch.testing.assert_close(
        gradient_of(method, model, batch, 3).double(),
        slope_of(plain, model.logits.detach().double()),
        rtol=2e-3,
        atol=1e-6,
    )


def test_row_of_the_state_is_the_examples_and_not_the_batchs() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of(num=NUM + 3)
    method.pseudo_labels[3:] = 0.2
    shifted = type(batch)(batch.index + 3, batch.weak, batch.strong, batch.observed, batch.true)
    assert loss_of(method.step(model, batch, 3)) != loss_of(method.step(model, shifted, 3))


def test_rounds_follow_the_epochs_from_warm_up_to_the_last_but_one() -> None:
    method = method_of(num_epochs=10, warmup_epochs=4)
    assert [epoch for epoch in range(1, 11) if method.needs_train_scores(epoch)] == [4, 5, 6, 7, 8, 9]
    assert not any(method_of(num_epochs=3, warmup_epochs=3).needs_train_scores(epoch) for epoch in (1, 2, 3))


def test_a_round_labels_the_lowest_scores_of_each_class_with_their_scores_for_good() -> None:
    # Class 0 has 8 unknown of 10: 0.9 * 8 / 3 rounds = 2.4 -> 2 per round. Class 1 has 10: 3.
    num = 10
    method = method_of(num_epochs=5, warmup_epochs=2, num=num)
    observed = torch.zeros(num, NUM_CLASSES, dtype=torch.bool)
    observed[:2, 0] = True
    scores = torch.linspace(0.05, 0.95, num)
    logits = (scores / (1 - scores)).log()[:, None].repeat(1, NUM_CLASSES)
    metrics = method.end_epoch(2, logits, observed)
    # Rows 0 and 1 are the lowest of class 0, but observed.
    assert (method.pseudo_labels[:, 0] != UNKNOWN).nonzero().flatten().tolist() == [2, 3]
    assert (method.pseudo_labels[:, 1] != UNKNOWN).nonzero().flatten().tolist() == [0, 1, 2]
    assert torch.allclose(method.pseudo_labels[2:4, 0], scores[2:4])
    assert metrics["train/pseudo_labelled_frac"] == pytest.approx((2 + 3 * 3) / 38)
    first = method.pseudo_labels.clone()
    method.end_epoch(3, -logits, observed)  # reverses the order; entries with a label keep it
    assert torch.equal(method.pseudo_labels[first != UNKNOWN], first[first != UNKNOWN])
    assert (method.pseudo_labels[:, 1] != UNKNOWN).nonzero().flatten().tolist() == [0, 1, 2, 7, 8, 9]
    method.end_epoch(4, logits, observed)
    assert (method.pseudo_labels != UNKNOWN).sum(0).tolist() == [6, 9, 9, 9]  # floor(.9 * 8 / 3) * 3 and .9 * 10


@pytest.mark.parametrize(("warmup_epochs", "per_round"), [(5, 18), (4, 15), (3, 12)])
def test_published_rounds_and_what_they_label_in_all(warmup_epochs: int, per_round: int) -> None:
    # 101 images, 100 unknown entries per class: .9 x 100 / (10 - warm-up) = 18, 15 and 12.86 -> 12 per round, in
    # 10 - warm-up rounds.
    num, num_epochs = 101, 10
    method = method_of(num_epochs=num_epochs, warmup_epochs=warmup_epochs, num=num)
    observed = torch.zeros(num, NUM_CLASSES, dtype=torch.bool)
    observed[0] = True
    counts = []
    for epoch in range(1, num_epochs + 1):
        if method.needs_train_scores(epoch):
            method.end_epoch(
                epoch, torch.randn(num, NUM_CLASSES, generator=torch.Generator().manual_seed(epoch)), observed
            )
        counts.append((method.pseudo_labels != UNKNOWN).sum(0).unique().tolist())
    expected = [max(0, epoch - warmup_epochs + 1) * per_round for epoch in range(1, num_epochs)]
    assert counts == [[count] for count in [*expected, expected[-1]]], "the last epoch has no round"
    assert counts[-1] == [per_round * (num_epochs - warmup_epochs)]
    assert counts[-1][0] <= 90 < counts[-1][0] + (num_epochs - warmup_epochs)


def test_equal_scores_are_taken_in_the_order_of_the_examples() -> None:
    method = method_of(num_epochs=3, warmup_epochs=2, proportion=0.5, num=8)
    method.end_epoch(2, torch.full((8, NUM_CLASSES), -log(3)), torch.zeros(8, NUM_CLASSES, dtype=torch.bool))
    assert torch.allclose(method.pseudo_labels[:4], torch.tensor(0.25))
    assert (method.pseudo_labels[4:] == UNKNOWN).all()
