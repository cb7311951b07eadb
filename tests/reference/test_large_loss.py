"""Compare large loss with its formula, entry by entry, over epochs, with ties and with LL-Cp's memory."""

from __future__ import annotations

from math import ceil, exp, log1p

import pytest
import torch
from torch import Tensor

from tests.reference.plain import FixedLogits, gradient_of, loss_of, make_batch
from training.config.methods import LargeLossConfig
from training.data.batches import Batch
from training.methods.base import Sizes
from training.methods.large_loss import LargeLoss

NUM, NUM_CLASSES = 8, 6
ENTRIES = NUM * NUM_CLASSES
SIZES = Sizes(NUM_CLASSES, num_examples=20, num_epochs=10)
SCHEMES = ("LL-R", "LL-Ct", "LL-Cp")


def bce(logit: float, label: bool) -> float:
    """Return BCE with logits: log(1 + e^-z) for a positive, log(1 + e^z) for a negative."""
    signed = -logit if label else logit
    return max(signed, 0) + log1p(exp(-abs(signed)))


def plain_step(
    logits: list[list[float]], known: list[list[bool]], scheme: str, percent: float, epoch: int
) -> tuple[float, set[tuple[int, int]]]:
    """Return the loss, and the entries that were rejected or corrected."""
    entries = [(row, column) for row in range(len(logits)) for column in range(len(logits[0]))]
    unobserved = {(r, c): bce(logits[r][c], False) for r, c in entries if not known[r][c]}
    number = ceil(round(len(entries) * (1 if scheme == "LL-Cp" else epoch - 1) * percent / 100, 6))
    chosen: set[tuple[int, int]] = set()
    if epoch > 1 and number and unobserved:
        threshold = sorted(unobserved.values(), reverse=True)[min(number, len(unobserved)) - 1]
        chosen = {entry for entry, loss in unobserved.items() if loss >= threshold}
    total = 0.0
    for r, c in entries:
        if (r, c) not in chosen:
            total += bce(logits[r][c], known[r][c])
        elif scheme != "LL-R":
            total += bce(logits[r][c], True)
    return total / len(entries), chosen


def method_of(scheme: str, percent: float) -> LargeLoss:
    return LargeLoss(LargeLossConfig.model_validate({"scheme": scheme, "delta_rel_percent": percent}), SIZES)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("epoch", [1, 2, 3, 7])
@pytest.mark.parametrize("percent", [0.0, 0.2, 5.0, 30.0])
def test_loss_is_the_formula(scheme: str, epoch: int, percent: float) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    expected, chosen = plain_step(model.logits.tolist(), (batch.observed > 0).tolist(), scheme, percent, epoch)
    output = method_of(scheme, percent).step(model, batch, epoch)
    assert loss_of(output) == pytest.approx(expected, rel=1e-5)
    assert int(output.sums["rejected"]) == len(chosen)
    assert bool(chosen) == (epoch > 1 and percent > 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradient_of_what_is_chosen_is_none_or_turned_around(scheme: str) -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    _, chosen = plain_step(model.logits.tolist(), (batch.observed > 0).tolist(), scheme, 10.0, 2)
    gradient = gradient_of(method_of(scheme, 10.0), model, batch, 2) * ENTRIES
    probs = model.logits.detach().sigmoid()
    for r in range(NUM):
        for c in range(NUM_CLASSES):
            label = (
                float(batch.observed[r, c])
                if (r, c) not in chosen
                else (float(probs[r, c]) if scheme == "LL-R" else 1.0)
            )
            assert float(gradient[r, c]) == pytest.approx(float(probs[r, c]) - label, abs=1e-5)


@pytest.mark.parametrize(
    ("scheme", "percent", "epoch", "number"),
    [
        ("LL-R", 0.2, 2, 1),
        ("LL-R", 0.2, 6, 1),
        ("LL-R", 2.5, 3, 3),
        ("LL-Ct", 2.5, 10, 11),
        ("LL-Cp", 2.5, 10, 2),
        ("LL-R", 6.25, 2, 3),
    ],
)
def test_how_many_are_chosen(scheme: str, percent: float, epoch: int, number: int) -> None:
    # Of 48 entries, .2 % are .096 -> 1, and still 1 after five epochs (.48); 2.5 % x 2 are 2.4 -> 3, x 9 are 10.8 ->
    # 11; 6.25 % are exactly 3.
    batch, model = make_batch(NUM, NUM_CLASSES)
    assert int(method_of(scheme, percent).step(model, batch, epoch).sums["rejected"]) == number


def test_a_product_that_is_whole_but_for_rounding_is_not_one_more() -> None:
    assert method_of("LL-R", 0.1)._num_large(1000, 4) == 3
    assert method_of("LL-R", 0.7)._num_large(1000, 2) == 7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ties_with_the_last_one_are_chosen_too(scheme: str) -> None:
    batch, _ = make_batch(NUM, NUM_CLASSES, without_positive=NUM)
    logits = torch.full((NUM, NUM_CLASSES), -1.0)
    logits[0, 0], logits[3, 2], logits[5, 5] = 4.0, 2.0, 2.0
    # k is two of 48; the second and the third largest are equal.
    output = method_of(scheme, 100 * 2 / ENTRIES).step(FixedLogits(logits), batch, 2)
    assert int(output.sums["rejected"]) == 3
    if scheme == "LL-Cp":
        assert output.row_updates["corrected"][1].nonzero().tolist() == [[0, 0], [3, 2], [5, 5]]


def test_more_than_there_are_takes_every_unobserved_label_and_no_positive() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    gradient = gradient_of(method_of("LL-R", 100.0), model, batch, 9)
    assert torch.equal(gradient != 0, batch.observed > 0)


def test_corrections_stay_with_their_example() -> None:
    method = method_of("LL-Cp", 20.0)
    num_known_again = 0
    known: dict[int, list[bool]] = {}
    for epoch, seed, index in [
        (1, 1, range(8)),
        (2, 2, range(8)),
        (2, 3, range(12, 20)),
        (3, 4, (19, 0, 7, 3, 12, 11, 2, 10)),
    ]:
        batch, model = make_batch(NUM, NUM_CLASSES, seed=seed)
        # An example has the same observed label every time it appears.
        observed = torch.stack([_label_of(example) for example in index])
        batch = Batch(torch.tensor(list(index)), batch.weak, batch.strong, observed, None)
        before = [known.get(example, _label_of(example).bool().tolist()) for example in index]
        num_known_again += sum(sum(row) - 1 for row in before)
        expected, chosen = plain_step(model.logits.tolist(), before, "LL-Cp", 20.0, epoch)
        output = method.step(model, batch, epoch)
        assert loss_of(output) == pytest.approx(expected, rel=1e-5)
        method.apply_updates(output, torch.tensor(True))
        for row, example in enumerate(index):
            known[example] = [value or (row, column) in chosen for column, value in enumerate(before[row])]
            kept = method.corrected[example] | _label_of(example).bool()
            assert kept.tolist() == known[example]
    assert num_known_again > 5, "or nothing had to be remembered"
    assert int(method.corrected.sum()) == sum(sum(row) for row in known.values()) - len(known) == 3 * 10


def _label_of(example: int) -> Tensor:
    return torch.eye(NUM_CLASSES)[example % NUM_CLASSES]


def test_without_permanent_corrections_there_is_no_state() -> None:
    assert not method_of("LL-R", 0.5).state_dict()
    assert not method_of("LL-Ct", 0.5).state_dict()
    assert method_of("LL-Cp", 0.5).state_dict()["corrected"].shape == (20, NUM_CLASSES)
