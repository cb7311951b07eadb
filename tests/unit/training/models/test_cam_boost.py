"""Test BoostLU's CAM: positive values times alpha before the mean, in training and evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.scenes import tiny_config
from training.errors import ConfigError
from training.models.registry import build_model

CPU = torch.device("cpu")


def build(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = tiny_config({"model.weights": "none"} | {f"model.{name}": value for name, value in settings.items()})
    return build_model(config.model, 10, CPU)[0].eval()


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_the_mean_of_the_boosted_map(training: bool) -> None:
    images = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    plain, boosted = build().train(training)(images), build(cam_boost=5.0).train(training)(images)
    cams = plain.cams.detach().numpy()
    expected = np.array([[[[5 * v if v > 0 else v for v in row] for row in one] for one in image] for image in cams])
    np.testing.assert_allclose(boosted.cams.detach().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(boosted.logits.detach().numpy(), expected.mean((2, 3)), rtol=1e-4, atol=1e-6)
    assert (cams > 0).any()
    assert (cams < 0).any()


def test_boost_adds_no_weight() -> None:
    assert build().state_dict().keys() == build(cam_boost=5.0).state_dict().keys()


def test_model_without_such_a_map_refuses_it() -> None:
    rule = (
        "model.cam_boost must be 1 unless model.name=resnet_cam, whose logits are the mean of a CAM, but got "
        "model.cam_boost=5.0"
    )
    with pytest.raises(ConfigError, match=rule):
        tiny_config({"model.name": "query2label", "model.cam_boost": 5.0})
