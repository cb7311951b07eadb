"""Compare the pointing game and the IoU of the mask with loops over pixels, and test their edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.models.base import ModelOutput
from training.models.cam_quality import box_masks, cam_metrics, highest_pixel

SIZE = 12
C = 3


class Maps(nn.Module):
    """A model that returns the maps it was built with; an image's pixels hold the index of its map."""

    def __init__(self, cams: Tensor) -> None:
        super().__init__()
        self.cams = cams

    def forward(self, images: Tensor) -> ModelOutput:
        cams = self.cams[images[:, 0, 0, 0].long()]
        return ModelOutput(cams.mean((2, 3)), cams)


def boxes_of(*images: list[tuple[int, int, int, int, int]], most: int = 4) -> Tensor:
    boxes = torch.full((len(images), most, 5), -1, dtype=torch.int16)
    for row, found in enumerate(images):
        for place, box in enumerate(found):
            boxes[row, place] = torch.tensor(box, dtype=torch.int16)
    return boxes


def measure(cams: Tensor, boxes: Tensor, threshold: float = 0.5, batch: int = 2) -> dict[str, float]:
    images = torch.arange(len(boxes)).float()[:, None, None, None].expand(-1, 3, SIZE, SIZE)
    return cam_metrics(Maps(cams), zip(images.split(batch), boxes.split(batch), strict=True), threshold, "per_image")


def random_boxes(stream: np.random.Generator, num: int) -> Tensor:
    found = []
    for _ in range(num):
        corners = np.sort(stream.integers(0, SIZE + 1, (stream.integers(0, 5), 2, 2)), 1)
        found.append(
            [(int(stream.integers(C)), int(x[0][0]), int(x[0][1]), int(x[1][0]), int(x[1][1])) for x in corners]
        )
    return boxes_of(*found)


def in_loops(cams: Tensor, boxes: Tensor, threshold: float) -> dict[str, float]:
    hits, centre, iou = [], [], []
    for cam, found in zip(cams, boxes.tolist(), strict=True):
        for label in sorted({box[0] for box in found if box[0] >= 0}):
            objects = np.zeros((SIZE, SIZE), bool)
            for c, left, top, right, bottom in found:
                for y in range(SIZE):
                    for x in range(SIZE):
                        objects[y, x] |= c == label and left <= x < right and top <= y < bottom
            upsampled = interpolate(cam[None, label : label + 1], size=(SIZE, SIZE), mode="bilinear")[0, 0].numpy()
            peak = max((float(cam[label, i, j]), -i, -j) for i in range(cam.shape[1]) for j in range(cam.shape[2]))
            row, column = (int((0.5 - peak[k]) * SIZE / cam.shape[k]) for k in (1, 2))
            hits.append(objects[row, column])
            centre.append(objects[SIZE // 2, SIZE // 2])
            low, high = float(cam[label].min()), float(cam[label].max())
            mask = (upsampled - low) / (high - low) > threshold
            iou.append((mask & objects).sum() / max((mask | objects).sum(), 1))
    return {
        "val/pointing_hit_rate": 100 * np.mean(hits),
        "val/centre_hit_rate": 100 * np.mean(centre),
        "val/cam_iou": 100 * np.mean(iou),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_agrees_with_loops_over_images_classes_boxes_and_pixels(seed: int, threshold: float) -> None:
    stream = np.random.default_rng(seed)
    boxes = random_boxes(stream, 7)
    cams = torch.from_numpy(stream.normal(size=(7, C, 4, 4)).astype(np.float32))
    assert measure(cams, boxes, threshold) == pytest.approx(in_loops(cams, boxes, threshold), rel=1e-5)


def test_map_that_is_the_box_hits_and_one_beside_it_does_not() -> None:
    boxes = boxes_of([(1, 0, 0, 4, 4)], [(1, 8, 8, 12, 12)])
    cams = torch.zeros(2, C, SIZE, SIZE)
    cams[0, 1, 0:4, 0:4] = 1
    cams[1, 1, 0:4, 0:4] = 1
    assert measure(cams, boxes) == {"val/pointing_hit_rate": 50, "val/centre_hit_rate": 0, "val/cam_iou": 50}


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (7, 12), (12, 12), (1, 1)])
@pytest.mark.parametrize("scale", [3, 9])
def test_point_is_the_middle_of_the_highest_cell_where_the_upsampled_map_is_highest(
    shape: tuple[int, int], scale: int
) -> None:
    maps = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0))
    size = (scale * shape[0], scale * shape[1])  # an odd factor, so that a pixel lies in the middle of each cell
    for cam, place in zip(maps, highest_pixel(maps, size).tolist(), strict=True):
        upsampled = interpolate(cam[None, None], size=size, mode="bilinear")[0, 0]
        assert float(upsampled.flatten()[place]) == pytest.approx(float(upsampled.max()), rel=1e-6)
        assert divmod(place // size[1], scale)[1] == divmod(place % size[1], scale)[1] == scale // 2


@pytest.mark.parametrize("size", [(36, 60), (7, 11), (2, 3)])
def test_point_at_any_size_is_the_pixel_around_the_middle(size: tuple[int, int]) -> None:
    maps = torch.eye(15).view(15, 3, 5)
    for cell, place in enumerate(highest_pixel(maps, size).tolist()):
        i, j = divmod(cell, 5)
        assert divmod(place, size[1]) == (int((i + 0.5) * size[0] / 3), int((j + 0.5) * size[1] / 5))


def test_of_equal_cells_the_first_counts_and_rounding_next_to_a_peak_does_not() -> None:
    maps = torch.zeros(4, 3, 3)
    maps[1, 1, 2] = maps[1, 2, 0] = maps[1, 2, 2] = 1  # (1, 2) is the first of the equal cells
    maps[2, 0, 0] = 1  # at the corner, a quarter of the cell has equal values
    maps[3, 2, 2] = 1
    assert [divmod(place, SIZE) for place in highest_pixel(maps, (SIZE, SIZE)).tolist()] == [
        (2, 2),
        (6, 10),
        (2, 2),
        (10, 10),
    ]
    corner = boxes_of([(0, 0, 0, 2, 2)], [(0, 2, 2, 4, 4)])
    cams = maps[[2, 2], None].expand(-1, C, -1, -1)
    noise = 1e-7 * torch.randn(20, 2, C, 3, 3, generator=torch.Generator().manual_seed(0))
    for shift in noise:
        assert measure(cams + shift, corner)["val/pointing_hit_rate"] == 50


def test_boxes_of_one_class_count_once_and_the_middle_is_the_baseline() -> None:
    boxes = boxes_of([(0, 0, 0, 2, 2), (0, 5, 5, 9, 9), (2, 0, 0, 3, 3)])
    rows, classes, masks = box_masks(boxes, (SIZE, SIZE))
    assert (rows.tolist(), classes.tolist(), masks.sum((1, 2)).tolist()) == ([0, 0], [0, 2], [20, 9])
    assert measure(torch.rand(1, C, 3, 3), boxes)["val/centre_hit_rate"] == 50


@pytest.mark.parametrize("boxes", [boxes_of([], []), boxes_of(most=4), torch.zeros(2, 0, 5, dtype=torch.int16)])
def test_nothing_is_said_without_a_box(boxes: Tensor) -> None:
    assert measure(torch.rand(len(boxes), C, 3, 3), boxes) == {}


def test_flat_map_has_an_empty_mask_and_a_finite_value() -> None:
    assert measure(torch.ones(1, C, 3, 3), boxes_of([(0, 3, 3, 9, 9)]))["val/cam_iou"] == 0


def test_images_without_a_box_change_nothing() -> None:
    boxes, cams = boxes_of([(0, 0, 0, 6, 6)], [], []), torch.rand(3, C, 3, 3)
    assert measure(cams, boxes) == measure(cams[:1], boxes[:1])
