"""Test the count of images behind equal budgets; tests/integration/test_training_run.py compares it with real runs."""

from __future__ import annotations

from typing import Any

import pytest

from training.config.passes import Images, count_epoch_images, count_most_images, count_run_images
from training.config.run import TrainConfig

BASE = {"data.name": "digits", "optim.batch_size": 32, "loop.epochs": 20}


def make(**changes: Any) -> TrainConfig:
    return TrainConfig.from_flat({**BASE, **{key.replace("__", "."): value for key, value in changes.items()}})


class TestAnEpoch:
    def test_each_method_by_hand(self) -> None:
        # 1,500 images: AN passes each forward and backward; IGNORE has a strong view and a masked pass, with both
        # images of the gap passed again in eval mode; PLC has a strong view; EM + APL and CRISP score the train split.
        expected = {
            "assumed_negative": (1500, 1500),
            "role": (1500, 1500),
            "plc": (3000, 3000),
            "em_apl": (3000, 1500),
            "crisp": (3000, 1500),
            "mime": (3000, 1500),
        }
        for name, pair in expected.items():
            found = count_epoch_images(make(method__name=name), 1500, 10)
            assert (found.forward, found.backward) == pair, name
        assert count_epoch_images(make(), 1500, 1) == Images(4500, 3000)
        assert count_epoch_images(make(method__masked_pass_bn="eval_both"), 1500, 1) == Images(6000, 3000)
        assert count_epoch_images(make(method__rejection="none"), 1500, 1) == Images(3000, 3000)
        assert count_epoch_images(make(method__view="weak", method__reg_weight=0.0), 1500, 1) == Images(3000, 1500)

    def test_a_dropped_last_batch_is_not_counted(self) -> None:
        config = make(method__name="wan", optim__drop_last=True)
        assert count_epoch_images(config, 100, 1).total == 2 * 96
        assert count_epoch_images(config, 20, 1).total == 2 * 20, "one batch is always left"


class TestARun:
    def test_labelling_begins_after_the_warmup_and_not_after_the_last_epoch(self) -> None:
        found = count_run_images(make(method__name="em_apl", method__warmup_epochs=10), 1500)
        assert found == Images(20 * 1500 + 10 * 1500, 20 * 1500)
        assert found.total == 75_000

    def test_the_most_expensive_run_of_a_search(self) -> None:
        config = make(method__name="crisp", method__warmup_epochs=8)
        ends = {"method.warmup_epochs": (1, 12), "optim.lr": (1e-3, 1e-2), "optim.batch_size": (16, 64)}
        assert count_most_images(config, ends, 1500) == Images(20 * 1500 + 19 * 1500, 20 * 1500)
        assert count_most_images(config, {}, 1500).forward == pytest.approx(20 * 1500 + 12 * 1500)
