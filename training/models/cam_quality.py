"""Measure how well class activation maps find the objects, where boxes are known.

Two measures are computed: the pointing game, and the IoU of IGNORE's mask at tau with the boxes.

Pointing game (Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016): for each image and each
class with boxes in it, the class's map scores a hit if its highest point lies in one of the class's boxes. The paper
tolerates 15 px outside a box in images of a few hundred px; here only a point inside is a hit. The baseline points at
the middle of every image, and a map has to beat it.

The highest point of a map (h, w) that is upsampled bilinearly to (H, W) is the middle of its highest cell, ((i + 1/2)
H/h, (j + 1/2) W/w). The pixel there is found by rounding down: where two or four pixels meet, it is the lower right
one. Of equal cells the first counts, row by row; a flat map points to its first cell. Upsampled pixels are not
compared: near the middle of a cell, and between the border and the middle of a border cell, several of them are equal
up to rounding, and rounding would decide differently on another machine.

IoU compares the mask that IGNORE would keep for the class with the union of the class's boxes; an empty mask counts 0.
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
    """Measure the maps of a model over every pair of an image and a class with boxes in it.

    Args:
        model: In eval mode.
        batches: Normalised images (B, 3, H, W) on the model's device and their boxes (B, M, 5), see :func:`box_masks`.
        threshold: tau, in 0-1.
        normalisation: How maps are scaled to 0-1; ``batch`` is over the given pairs.

    Returns:
        ``val/pointing_hit_rate``, ``val/centre_hit_rate`` (the baseline) and ``val/cam_iou`` in percent; empty without
        boxes.
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
    """Draw the union of each image's boxes of a class as a mask.

    Args:
        boxes: Integer (B, M, 5) of (class, left, top, right, bottom) in px, right and bottom exclusive; class -1
            is padding.
        size: (H, W) of the images in px.

    Returns:
        For the P pairs of an image and a class with boxes in it, in order: row (P,), class (P,) and mask (P, H, W).
    """
    boxes = boxes.long()
    rows, places = (boxes[..., 0] >= 0).nonzero(as_tuple=True)
    found = boxes[rows, places]
    pairs, pair = torch.stack([rows, found[:, 0]], 1).unique(dim=0, return_inverse=True)
    masks = torch.zeros(len(pairs), *size, dtype=torch.bool, device=boxes.device)
    _, left, top, right, bottom = found[:, :, None, None].unbind(1)
    y, x = torch.arange(size[0], device=boxes.device)[:, None], torch.arange(size[1], device=boxes.device)
    # One by one, because boxes of the same pair may overlap, and an indexed |= would apply only one of them.
    for index, inside in zip(pair.tolist(), (x >= left) & (x < right) & (y >= top) & (y < bottom), strict=True):
        masks[index] |= inside
    return pairs[:, 0], pairs[:, 1], masks


def highest_pixel(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixel that each map points to, as described in the module's docstring.

    Args:
        maps: (P, h, w).
        size: (H, W) of the images in px.

    Returns:
        (P,), row * W + column.
    """
    height, width = maps.shape[1:]
    # argmax returns the first of equal cells on every device.
    cell = maps.flatten(1).argmax(1)
    row, column = (2 * (cell // width) + 1) * size[0] // (2 * height), (2 * (cell % width) + 1) * size[1] // (2 * width)
    return row * size[1] + column


def _sums(
    cams: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, normalisation: CamNormalisation
) -> Tensor:
    """Return the sums of hits, hits of the middle and IoU over the pairs, and the number of pairs."""
    rows, classes, objects = box_masks(boxes.to(cams.device), size)
    maps = cams[rows, classes]
    hits = objects.flatten(1).gather(1, highest_pixel(maps, size)[:, None])
    every = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    mask = cam_mask(normalise_cam(maps, every, normalisation), every, threshold, size)
    iou = (mask & objects).sum((1, 2)) / (mask | objects).sum((1, 2)).clamp_min(1)
    centre_hits = objects[:, size[0] // 2, size[1] // 2]
    return torch.stack([hits.double().sum(), centre_hits.double().sum(), iou.double().sum(), every.double().sum()])
