"""Test batches of a store: views depend on seed, epoch and row alone, and no worker outlives its pass."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from tests.kit.stores import make_store, store_config
from training.config.run import TrainConfig
from training.data import loaders
from training.data.batches import Batch, TrainBatches
from training.data.loaders import StoreBatches, load_eval_batches, make_train_batches
from training.data.registry import load_split
from training.data.split import InMemoryImages, OriginalImages, SplitData
from training.data.transforms import augment, draw_view
from training.data.views import IMAGENET_SCALE
from training.errors import ConfigError, StoreError
from training.machine import usable_cpus

CPU = torch.device("cpu")
NUM = 23


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return store_config(
        make_store(tmp_path_factory.mktemp("loaders"), num_train=29, image_size=16, keep_originals=True)
    )


@pytest.fixture
def data(config: TrainConfig) -> SplitData:
    return load_split(config.data, "train")


def make(data: SplitData, batch_size: int = 5, **settings: Any) -> StoreBatches:
    return StoreBatches(data, IMAGENET_SCALE, batch_size, 7, **{"strong": True, **settings})


def by_row(batches: Sequence[Batch]) -> dict[int, tuple[bytes, bytes]]:
    found = {}
    for batch in batches:
        assert batch.strong is not None
        for place, row in enumerate(batch.index.tolist()):
            found[row] = (batch.weak[place].numpy().tobytes(), batch.strong[place].numpy().tobytes())
    return found


def num_children() -> int:
    return len(psutil.Process().children(recursive=True))


def image(data: SplitData, row: int) -> Image.Image:
    return Image.fromarray(data.images.read([row])[0].permute(1, 2, 0).numpy())


def normalised(image: Image.Image, flip: bool) -> Tensor:
    """Apply what the released code does after its resize, with torchvision's own functions."""
    mirrored = F.hflip(image) if flip else image
    result: Tensor = F.normalize(F.to_tensor(mirrored), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return result


class TestViews:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_views_are_torchvisions(self, data: SplitData, num_workers: int) -> None:
        for batch in make(data, num_workers=num_workers).epoch(3):
            assert batch.strong is not None
            for place, row in enumerate(batch.index.tolist()):
                weak, strong = draw_view(7, 3, row, "weak"), draw_view(7, 3, row, "strong")
                torch.testing.assert_close(
                    batch.weak[place], normalised(image(data, row), weak.flip), rtol=0, atol=1e-5
                )
                expected = normalised(augment(image(data, row), strong.ops), strong.flip)
                torch.testing.assert_close(batch.strong[place], expected, rtol=0, atol=1e-5)

    def test_released_order_augments_the_original_and_then_resizes(self, data: SplitData) -> None:
        images = data.images
        assert isinstance(images, OriginalImages)
        rows = []
        for batch in make(data, originals=True).epoch(1):
            assert batch.strong is not None
            for place, row in enumerate(batch.index.tolist()):
                original, weak, strong = (
                    images.read_original(row),
                    draw_view(7, 1, row, "weak"),
                    draw_view(7, 1, row, "strong"),
                )
                assert original.size == (24, 20)
                expected = normalised(F.resize(augment(original, strong.ops), [16, 16]), strong.flip)
                torch.testing.assert_close(batch.strong[place], expected, rtol=0, atol=1e-5)
                torch.testing.assert_close(
                    batch.weak[place], normalised(F.resize(original, [16, 16]), weak.flip), rtol=0, atol=1e-5
                )
                rows.append(row)
        assert len(rows) == NUM

    def test_neither_batches_nor_workers_change_an_image(self, data: SplitData) -> None:
        expected = by_row(list(make(data).epoch(2)))
        assert len(expected) == NUM
        for batch_size, num_workers in ((1, 0), (NUM, 0), (100, 1), (4, 3)):
            assert by_row(list(make(data, batch_size, num_workers=num_workers).epoch(2))) == expected

    def test_epochs_and_seeds_differ(self, data: SplitData) -> None:
        first, second = by_row(list(make(data).epoch(1))), by_row(list(make(data).epoch(2)))
        assert sum(first[row][1] != second[row][1] for row in first) > NUM / 2
        other = by_row(list(StoreBatches(data, IMAGENET_SCALE, 5, 8, strong=True).epoch(1)))
        assert sum(first[row][1] != other[row][1] for row in first) > NUM / 2

    def test_without_a_strong_view_the_weak_one_is_the_same(self, data: SplitData) -> None:
        batches = list(make(data, strong=False).epoch(1))
        assert all(batch.strong is None for batch in batches)
        weak = {
            row: batch.weak[place].numpy().tobytes()
            for batch in batches
            for place, row in enumerate(batch.index.tolist())
        }
        assert weak == {row: views[0] for row, views in by_row(list(make(data).epoch(1))).items()}

    def test_global_random_stream_is_left_alone(self, data: SplitData) -> None:
        before = torch.get_rng_state()
        list(make(data, num_workers=1).epoch(1))
        list(load_eval_batches(data, IMAGENET_SCALE, CPU, 1))
        assert torch.equal(torch.get_rng_state(), before)


class TestOrder:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_order_and_labels_are_those_of_batches_in_memory(self, data: SplitData, num_workers: int) -> None:
        in_memory = replace(data, images=InMemoryImages(data.images.read(range(NUM))))
        ours, theirs = make(data, num_workers=num_workers), TrainBatches(in_memory, IMAGENET_SCALE, 5, 7, None)
        assert len(ours) == len(theirs) == 5
        for one, other in zip(ours.epoch(4), theirs.epoch(4), strict=True):
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.observed, other.observed)
            assert one.true is not None
            assert other.true is not None
            assert torch.equal(one.true, other.true)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_smaller_last_batch_is_left_out_as_in_memory(self, data: SplitData, num_workers: int) -> None:
        in_memory = replace(data, images=InMemoryImages(data.images.read(range(NUM))))
        ours = StoreBatches(data, IMAGENET_SCALE, 4, 7, strong=False, num_workers=num_workers, drop_last=True)
        theirs = TrainBatches(in_memory, IMAGENET_SCALE, 4, 7, None, drop_last=True)
        assert NUM % 4
        assert len(ours) == len(theirs) == NUM // 4
        for one, other in zip(ours.epoch(4), theirs.epoch(4), strict=True):
            assert len(one.index) == 4
            assert torch.equal(one.index, other.index)

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("first_step", [0, 1, 4, 5])
    def test_an_epoch_is_entered_at_any_step(self, data: SplitData, num_workers: int, first_step: int) -> None:
        whole, rest = list(make(data).epoch(2)), list(make(data, num_workers=num_workers).epoch(2, first_step))
        assert [batch.index.tolist() for batch in rest] == [batch.index.tolist() for batch in whole[first_step:]]
        assert by_row(rest) == by_row(whole[first_step:])

    def test_images_of_steps_before_are_not_read(self, data: SplitData) -> None:
        read: list[int] = []

        class Counted:
            def __len__(self) -> int:
                return len(data)

            def read(self, rows: Sequence[int]) -> Tensor:
                read.extend(rows)
                return data.images.read(rows)

        list(make(replace(data, images=Counted())).epoch(1, first_step=4))
        assert len(read) == NUM - 20

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_ranks_share_the_global_batch(
        self, data: SplitData, num_workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = list(make(data, 11).epoch(1))
        monkeypatch.setattr(loaders, "world_size", lambda: 3)
        parts = []
        for rank in range(3):
            monkeypatch.setattr(loaders, "rank", lambda rank=rank: rank)
            parts.append(list(make(data, 11, num_workers=num_workers).epoch(1)))
        for step, batch in enumerate(whole):
            assert torch.equal(torch.cat([part[step].index for part in parts]), batch.index)
            assert torch.equal(torch.cat([part[step].weak for part in parts]), batch.weak)
            assert torch.equal(torch.cat([part[step].observed for part in parts]), batch.observed)
        assert [len(part[2].index) for part in parts] == [1, 0, 0]
        assert parts[2][2].weak.shape == (0, 3, 16, 16)
        assert parts[2][2].strong is not None
        assert parts[2][2].strong.shape == (0, 3, 16, 16)

    def test_observed_labels_alone(self, data: SplitData) -> None:
        assert all(batch.true is None for batch in make(replace(data, true=None), num_workers=1).epoch(1))


class TestEvaluation:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_every_image_once_in_order_as_it_is(
        self, data: SplitData, num_workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loaders, "EVAL_BATCH", 6)
        batches = list(load_eval_batches(data, IMAGENET_SCALE, CPU, num_workers))
        assert [len(batch) for batch in batches] == [6, 6, 6, 5]
        assert torch.equal(torch.cat(batches), IMAGENET_SCALE.normalise(data.images.read(range(NUM))))

    def test_ranks_share_it_and_one_may_have_none(self, data: SplitData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loaders, "world_size", lambda: NUM + 1)
        monkeypatch.setattr(loaders, "rank", lambda: NUM)
        assert sum(len(batch) for batch in load_eval_batches(data, IMAGENET_SCALE, CPU, 2)) == 0


class TestWorkers:
    def test_they_end_with_the_pass(self, data: SplitData) -> None:
        before = num_children()
        batches = make(data, 2, num_workers=2).epoch(1)
        next(batches)
        assert num_children() == before + min(2, usable_cpus())
        list(batches)
        assert num_children() == before

    def test_they_end_when_a_pass_is_left_by_an_exception_that_is_kept(self, data: SplitData) -> None:
        def train() -> None:
            with closing(make(data, 2, num_workers=2).epoch(1)) as batches:
                for _ in islice(batches, 2):
                    pass
                raise RuntimeError("the step failed")

        before = num_children()
        with pytest.raises(RuntimeError, match="the step failed") as kept:
            train()
        assert kept.value.__traceback__ is not None
        assert num_children() == before

    def test_an_image_that_cannot_be_read_says_so_and_leaves_no_worker(self, data: SplitData) -> None:
        class Broken:
            def __len__(self) -> int:
                return len(data)

            def read(self, rows: Sequence[int]) -> Tensor:
                raise StoreError("every image of a store must decode, but row 3 does not")

        before = num_children()
        for num_workers in (0, 2):
            batches = make(replace(data, images=Broken()), num_workers=num_workers).epoch(1)
            with pytest.raises(StoreError, match="row 3 does not"):
                next(batches)
        assert num_children() == before

    def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(self, data: SplitData) -> None:
        with closing(make(data, 1, num_workers=1).epoch(1)) as batches:
            next(batches)
            psutil.Process().children()[0].kill()
            with pytest.raises(RuntimeError, match="DataLoader worker"):
                list(batches)


class TestChoice:
    def test_a_store_is_read_by_workers_and_scenes_in_memory(self, config: TrainConfig, data: SplitData) -> None:
        assert isinstance(make_train_batches(data, IMAGENET_SCALE, config, True, CPU), StoreBatches)
        in_memory = replace(data, images=InMemoryImages(data.images.read(range(NUM))))
        assert isinstance(make_train_batches(in_memory, IMAGENET_SCALE, config, True, CPU), TrainBatches)

    def test_released_order_needs_originals(self, config: TrainConfig, data: SplitData) -> None:
        released = config.with_params({"data.augment_order": "original"})
        original = by_row(list(make_train_batches(data, IMAGENET_SCALE, released, True, CPU).epoch(1)))
        resized = by_row(list(make_train_batches(data, IMAGENET_SCALE, config, True, CPU).epoch(1)))
        assert all(original[row][0] == resized[row][0] for row in range(NUM)), (
            "raw pixels were resized as the released code does"
        )
        assert any(original[row][1] != resized[row][1] for row in range(NUM))
        without = replace(data, images=InMemoryImages(data.images.read(range(NUM))))
        with pytest.raises(
            ConfigError, match="augment_order=original needs the original images.*--keep-originals"
        ) as error:
            make_train_batches(without, IMAGENET_SCALE, released, True, CPU)
        assert error.value.key == "data.augment_order"


def test_a_worker_whose_run_was_killed_while_it_started_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    loaders._end_if_orphaned(os.getppid(), 0)
    assert ended == []
    loaders._end_if_orphaned(os.getpid(), 0)
    assert ended == [1]
