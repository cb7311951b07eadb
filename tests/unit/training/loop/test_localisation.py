"""Test the fixed part of val on which maps are measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.config.methods import IgnoreConfig, WanConfig
from training.data.split import InMemoryImages, SplitData
from training.data.views import PixelScale
from training.loop import localisation
from training.loop.localisation import mask_settings, measure_localisation
from training.models.base import ModelOutput


class Red(nn.Module):
    """A model whose map is the first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> ModelOutput:
        self.seen.append(images)
        return ModelOutput(images[:, 0].mean((1, 2))[:, None], images[:, :1])


def split(num: int, boxed: list[int]) -> SplitData:
    boxes = torch.full((num, 2, 5), -1, dtype=torch.int16)
    images = torch.zeros(num, 3, 8, 8, dtype=torch.uint8)
    for row in boxed:
        boxes[row, 0] = torch.tensor([0, 2, 2, 6, 6])
        images[row, :, 2:6, 2:6] = 100 + row
    none = torch.zeros(num, 1, dtype=torch.bool)
    return SplitData("val", InMemoryImages(images), none, none, boxes, ("object",))


SCALE = PixelScale(torch.zeros(3), torch.ones(3))
CPU = torch.device("cpu")


def test_first_images_with_boxes_are_measured_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localisation, "NUM_IMAGES", 3)
    monkeypatch.setattr(localisation, "_BATCH", 2)
    model = Red()
    for _ in range(2):
        found = measure_localisation(model, split(9, [1, 4, 5, 8]), SCALE, CPU, IgnoreConfig())
        assert found == {"val/pointing_hit_rate": 100, "val/centre_hit_rate": 100, "val/cam_iou": 100}
    assert [len(images) for images in model.seen] == [2, 1, 2, 1]
    assert torch.equal(torch.cat(model.seen[:2]), torch.cat(model.seen[2:]))
    assert (torch.cat(model.seen[:2])[:, 0].amax((1, 2)) * 255).round().tolist() == [101, 104, 105]


def test_dataset_without_boxes_has_no_such_metric() -> None:
    model, data = Red(), split(3, [])
    assert measure_localisation(model, data, SCALE, CPU, IgnoreConfig()) == {}
    unknown = SplitData(data.name, data.images, data.observed, data.true, None, data.classes)
    assert measure_localisation(model, unknown, SCALE, CPU, IgnoreConfig()) == {}
    assert model.seen == []


def test_mask_is_the_methods_own() -> None:
    assert mask_settings(IgnoreConfig(cam_threshold=0.7, cam_normalisation="batch")) == (0.7, "batch")
    assert mask_settings(WanConfig()) == (0.5, "per_image")
