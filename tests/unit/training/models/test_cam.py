"""Test properties of class activation maps that the references in tests/reference do not cover."""

from __future__ import annotations

from itertools import pairwise

import torch

from training.models.cam import CamNormalisation, cam_mask, normalise_cam, observed_cam


def test_observed_cam_is_the_map_of_the_one_label() -> None:
    cams = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    observed = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    cam = observed_cam(cams, observed)
    assert torch.equal(cam[0], cams[0, 2])
    assert torch.equal(cam[1], torch.zeros(2, 2))


def test_higher_threshold_keeps_less() -> None:
    cam = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0))
    present = torch.ones(4, dtype=torch.bool)
    kept = [
        cam_mask(normalise_cam(cam, present, "per_image"), present, tau, (20, 20)).float().mean((1, 2))
        for tau in (0.0, 0.3, 0.6, 0.9)
    ]
    assert all((less < more).all() for more, less in pairwise(kept))


def test_images_without_a_positive_do_not_take_part_in_batch_normalisation() -> None:
    cam = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([True, True, True, False])
    other = cam.clone()
    other[3] = 100.0
    assert torch.equal(normalise_cam(cam, present, "batch")[:3], normalise_cam(other, present, "batch")[:3])


def test_no_image_and_no_positive_at_all_are_masks_too() -> None:
    hows: tuple[CamNormalisation, ...] = ("per_image", "batch")
    for how in hows:
        empty = normalise_cam(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.bool), how)
        assert cam_mask(empty, torch.zeros(0, dtype=torch.bool), 0.5, (6, 6)).shape == (0, 6, 6)
        none = torch.zeros(2, dtype=torch.bool)
        assert cam_mask(normalise_cam(torch.zeros(2, 3, 3), none, how), none, 0.5, (6, 6)).all()
