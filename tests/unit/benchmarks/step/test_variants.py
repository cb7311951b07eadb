"""Test the floor that ``benchmarks.step`` compares steps with."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.variants import Size, count_conv_bytes, count_floor


def test_bytes_of_a_convolution_and_its_backward_pass_by_hand() -> None:
    conv = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False, device="meta")
    images = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
    inputs, weights, outputs = 2 * 3 * 8 * 8, 5 * 3 * 3 * 3, 2 * 5 * 8 * 8
    with FlopCounterMode(display=False) as flops, count_conv_bytes() as traffic:
        conv(images).sum().backward()
    # Forward: images and weights in, maps out. Backward: the maps' gradient, images and weights in, two gradients out.
    assert traffic.get_total_flops() == 4 * (inputs + weights + outputs + outputs + 2 * (inputs + weights))
    assert flops.get_total_flops() == 3 * 2 * outputs * 27


@pytest.mark.parametrize(
    ("size", "flops", "num_bytes"),
    [
        (Size("digits/resnet12", 40, 8), 472_704_000, 13_478_656),
        (Size("torchvision/resnet18", 64, 2), 4_069_359_616, 643_930_528),
    ],
)
def test_floor_is_the_one_that_was_counted_before(size: Size, flops: int, num_bytes: int) -> None:
    floor = count_floor(size)
    assert (floor.flops, floor.num_bytes) == (flops, num_bytes)
