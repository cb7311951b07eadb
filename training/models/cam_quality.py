"""How well class activation maps find the objects, where boxes are known: the pointing game, and the mask at tau
against the boxes.

Pointing game (Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016): for each image and each
class it has boxes of, the class's map is a hit if its highest point lies in one of the class's boxes. The paper
tolerates 15 px beside the box at a few hundred px; here a hit is inside. The baseline points at the middle of every
image: a map has to beat it.

The highest point of a map (h, w) that is upsampled bilinearly to (H, W) is the middle of its highest cell, ((i + 1/2)
H/h, (j + 1/2) W/w), and the pixel there is the one at the rounded-down place: of two or four that meet there, the lower
right one. Of equal cells the first counts, row by row; a flat map points to its first cell. Upsampled pixels are not
compared: beside the middle of a cell, and from the border's cells outwards, several of them are equal but for rounding,
which then decides, on another machine differently.

IoU is of the mask that IGNORE would keep for the class with the union of the class's boxes; an empty mask counts 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.metric_names import VAL_CAM_IOU, VAL_CENTRE_HIT_RATE, VAL_POINTING_HIT_RATE
from training.models.cam import CamNormalisation, cam_mask, normalise_cam


@torch.no_grad()
def cam_metrics(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], threshold: float, normalisation: CamNormalisation
) -> dict[str, float]:
    """Measure the maps of a model over every pair of an image and a class that it has boxes of.

    Args:
        model: In eval mode.
        batches: Normalised images (B, 3, H, W) on the model's device, and their boxes (B, M, 5), see :func:`box_masks`.
        threshold: tau, in 0-1.
        normalisation: How maps are brought to 0-1; ``batch`` is over the pairs given.

    Returns:
        ``val/pointing_hit_rate``, ``val/centre_hit_rate`` (of the image's middle) and ``val/cam_iou`` in percent;
        nothing without boxes.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for images, boxes in batches:
        if bool((boxes[..., 0] >= 0).any()):
            sums += _sums(
                model(images).cams.float(), boxes, (images.shape[-2], images.shape[-1]), threshold, normalisation
            ).cpu()
    hits, centre_hits, iou, num = sums.tolist()
    if not num:
        return {}
    values = {VAL_POINTING_HIT_RATE: hits, VAL_CENTRE_HIT_RATE: centre_hits, VAL_CAM_IOU: iou}
    return {name: 100 * value / num for name, value in values.items()}


def box_masks(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the union of each image's boxes of one class.

    Args:
        boxes: Integer (B, M, 5) of (class, left, top, right, bottom) in px, right and bottom exclusive; -1 as class
            pads.
        size: (H, W) of the images in px.

    Returns:
        For P pairs of an image and a class that it has boxes of, ordered: row (P,), class (P,) and bool (P, H, W).
    """
    boxes = boxes.long()
    rows, places = (boxes[..., 0] >= 0).nonzero(as_tuple=True)
    found = boxes[rows, places]
    pairs, pair = torch.stack([rows, found[:, 0]], 1).unique(dim=0, return_inverse=True)
    masks = torch.zeros(len(pairs), *size, dtype=torch.bool, device=boxes.device)
    _, left, top, right, bottom = found[:, :, None, None].unbind(1)
    y, x = torch.arange(size[0], device=boxes.device)[:, None], torch.arange(size[1], device=boxes.device)
    for index, inside in zip(pair.tolist(), (x >= left) & (x < right) & (y >= top) & (y < bottom), strict=True):
        masks[index] |= inside
    return pairs[:, 0], pairs[:, 1], masks


def highest_pixel(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixel at which each map points, see the module.

    Args:
        maps: (P, h, w).
        size: (H, W) of the images in px.

    Returns:
        (P,), row * W + column.
    """
    height, width = maps.shape[1:]
    # argmax promises the first of equals, on every device.
    cell = maps.flatten(1).argmax(1)
    row, column = (2 * (cell // width) + 1) * size[0] // (2 * height), (2 * (cell % width) + 1) * size[1] // (2 * width)
    return row * size[1] + column


def _sums(
    cams: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, normalisation: CamNormalisation
) -> Tensor:
    """Sum hits, hits of the middle and IoU over the pairs, and count them."""
    rows, classes, objects = box_masks(boxes.to(cams.device), size)
    maps = cams[rows, classes]
    hits = objects.flatten(1).gather(1, highest_pixel(maps, size)[:, None])
    every = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    mask = cam_mask(normalise_cam(maps, every, normalisation), every, threshold, size)
    iou = (mask & objects).sum((1, 2)) / (mask | objects).sum((1, 2)).clamp_min(1)
    centre_hits = objects[:, size[0] // 2, size[1] // 2]
    return torch.stack([hits.double().sum(), centre_hits.double().sum(), iou.double().sum(), every.double().sum()])
