"""Test the split and the draw; tests/reference/test_protocol.py has the literature's own figures."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.protocol import draw_single_positives, split_train_val


def true_labels() -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    true = np.random.RandomState(0).rand(300, 6) < 0.4
    true[:5] = False
    true[5:8] = True
    return true


def test_one_positive_of_each_image_that_has_any() -> None:
    true = true_labels()
    observed = draw_single_positives(true)
    assert (observed & ~true).sum() == 0
    assert np.array_equal(observed.sum(1), true.any(1))


def test_draw_repeats_by_seed_and_leaves_its_input_alone() -> None:
    true = true_labels()
    first = draw_single_positives(true, 1)
    assert np.array_equal(true, true_labels())
    assert np.array_equal(draw_single_positives(true, 1), first)
    assert not np.array_equal(draw_single_positives(true, 2), first)


def test_draw_is_uniform_over_the_positives() -> None:
    counts = draw_single_positives(np.ones((6000, 3), bool)).sum(0)
    assert (abs(counts - 2000) < 150).all()


@pytest.mark.parametrize("num_images", [10, 11, 5717])
def test_split_parts_the_images(num_images: int) -> None:
    train, val = split_train_val(num_images)
    assert sorted([*train, *val]) == list(range(num_images))
    assert list(train) == sorted(train)
    assert list(val) == sorted(val)
    assert len(val) == round(0.2 * num_images)
