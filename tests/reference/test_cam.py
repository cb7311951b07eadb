"""Compare CAM normalisation and the mask at tau with the plain reference, and with cases by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference.plain_ignore import Array, make_mask, normalise, upsample
from training.models.cam import cam_mask, normalise_cam, observed_cam

NUM_CLASSES = 5


def array(tensor: Tensor) -> Array:
    """Return a double-precision array."""
    return tensor.detach().double().numpy()


class TestMask:
    def cams(self, num: int = 6) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        observed = torch.zeros(num, NUM_CLASSES)
        observed[torch.arange(1, num), torch.randint(NUM_CLASSES, (num - 1,), generator=generator)] = 1
        return torch.randn(num, NUM_CLASSES, 3, 3, generator=generator), observed

    @pytest.mark.parametrize("how", ["per_image", "batch"])
    @pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
    def test_mask_equals_the_plain_one(self, how: Any, threshold: float) -> None:
        cams, observed = self.cams()
        present = observed.sum(1) > 0
        cam = observed_cam(cams, observed)
        mask = cam_mask(normalise_cam(cam, present, how), present, threshold, (14, 10))
        assert np.array_equal(mask.numpy(), make_mask(array(cams), array(observed), threshold, how, (14, 10)))
        assert mask[0].all(), "an image without a positive is kept whole"
        assert not mask[1:].all()

    @pytest.mark.parametrize("how", ["per_image", "batch"])
    def test_normalisation_equals_the_plain_one(self, how: Any) -> None:
        cams, observed = self.cams()
        present = observed.sum(1) > 0
        cam = observed_cam(cams, observed)
        expected = normalise(array(cam), present.numpy(), how)
        np.testing.assert_allclose(array(normalise_cam(cam, present, how))[1:], expected[1:], rtol=1e-5, atol=1e-6)

    def test_batch_normalisation_of_one_positive_is_empty_as_released(self) -> None:
        cams, observed = self.cams(num=2)
        present = observed.sum(1) > 0
        mask = cam_mask(normalise_cam(observed_cam(cams, observed), present, "batch"), present, 0.1, (9, 9))
        assert not mask[1].any()

    def test_constant_cam_gives_an_empty_mask_not_nan(self) -> None:
        present = torch.tensor([True])
        normalised = normalise_cam(torch.full((1, 3, 3), 2.0), present, "per_image")
        assert torch.equal(normalised, torch.zeros(1, 3, 3))
        assert not cam_mask(normalised, present, 0.0, (6, 6)).any()

    def test_upsampling_by_hand(self) -> None:
        # Two columns 0 and 1 over four pixels: centres at -.25, .25, .75, 1.25 of the source, so 0, .25, .75, 1.
        by_hand = np.array([[0, 0.25, 0.75, 1.0]] * 2)
        cam = np.array([[0.0, 1.0]])
        np.testing.assert_allclose(upsample(cam, 2, 4), by_hand)
        mask = cam_mask(torch.tensor(cam)[None], torch.tensor([True]), 0.5, (2, 4))
        assert np.array_equal(mask[0].numpy(), by_hand > 0.5)
