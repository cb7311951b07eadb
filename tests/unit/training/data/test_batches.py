"""Test that batches depend on (seed, epoch) alone and hold each example once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.data.batches import Batch, TrainBatches, eval_batches
from training.data.split import InMemoryImages, SplitData
from training.data.views import PixelScale

NUM = 21


def make_split() -> SplitData:
    generator = torch.Generator().manual_seed(0)
    observed = torch.zeros(NUM, 4, dtype=torch.bool)
    observed[torch.arange(NUM), torch.arange(NUM) % 4] = True
    pictures = torch.randint(0, 256, (NUM, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return SplitData("train", InMemoryImages(pictures), observed, observed.clone(), None, ("a", "b", "c", "d"))


def make(batch_size: int = 8, seed: int = 0, strength: float | None = 0.5) -> TrainBatches:
    split = make_split()
    return TrainBatches(split, PixelScale.of(split.images.read(range(NUM))), batch_size, seed, strength)


def by_index(batches: list[Batch]) -> dict[int, tuple[list[float], list[float]]]:
    found = {}
    for batch in batches:
        assert batch.strong is not None
        for place, index in enumerate(batch.index.tolist()):
            found[index] = (batch.weak[place].flatten().tolist(), batch.strong[place].flatten().tolist())
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 8, 21, 100])
def test_an_epoch_holds_every_example_once_and_the_last_batch_what_is_left(batch_size: int) -> None:
    batches = list(make(batch_size).epoch(1))
    assert len(batches) == len(make(batch_size))
    assert sorted(index for batch in batches for index in batch.index.tolist()) == list(range(NUM))
    assert [len(batch.weak) for batch in batches] == [
        min(batch_size, NUM - start) for start in range(0, NUM, batch_size)
    ]


@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, NUM), (8, 2), (NUM - 1, 1), (NUM, 1), (10 * NUM, 1)])
def test_a_last_batch_that_is_smaller_than_the_others_can_be_left_out(batch_size: int, num_batches: int) -> None:
    whole, cut = (
        make(batch_size),
        TrainBatches(make_split(), PixelScale.of(make_split().images.read([0])), batch_size, 0, None, drop_last=True),
    )
    expected = [batch.index.tolist() for batch in whole.epoch(1)][:num_batches]
    assert [batch.index.tolist() for batch in cut.epoch(1)] == expected
    assert len(cut) == num_batches
    assert [batch.index.tolist() for batch in cut.epoch(1, 1)] == expected[1:]


def test_labels_follow_their_images() -> None:
    for batch in make().epoch(1):
        assert batch.true is not None
        assert batch.observed.argmax(1).tolist() == [index % 4 for index in batch.index.tolist()]
        assert torch.equal(batch.true, batch.observed)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for batch in make(seed=seed).epoch(epoch) for index in batch.index.tolist()]

    orders = [order(0, 1), order(0, 2), order(1, 1)]
    assert len({tuple(one) for one in orders}) == 3
    assert order(0, 2) == orders[1]


def test_views_do_not_depend_on_the_batch_size() -> None:
    assert by_index(list(make(3).epoch(2))) == by_index(list(make(21).epoch(2)))


def test_views_differ_between_epochs_and_from_each_other() -> None:
    first, second = by_index(list(make().epoch(1))), by_index(list(make().epoch(2)))
    assert sum(first[index][0] != second[index][0] for index in range(NUM)) > NUM / 2
    assert all(first[index][1] != second[index][1] for index in range(NUM))
    assert all(weak != strong for weak, strong in first.values())


def test_no_strong_view_and_no_true_labels_where_there_are_none() -> None:
    split = replace(make_split(), true=None)
    batch = next(TrainBatches(split, PixelScale.of(split.images.read(range(NUM))), 4, 0, None).epoch(1))
    assert batch.strong is None
    assert batch.true is None


def test_evaluation_sees_every_example_once_in_order_without_views() -> None:
    split = make_split()
    scale = PixelScale.of(split.images.read(range(NUM)))
    rows, images = zip(*eval_batches(split, scale, batch_size=8), strict=True)
    assert torch.cat(rows).tolist() == list(range(NUM))
    assert torch.equal(torch.cat(images), scale.normalise(split.images.read(range(NUM))))
