"""Test what ``import training`` offers: its names, and a method in a loop of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import training
from tests.kit import notebooks

NAMES = [
    *("Batch", "ConfigError", "DatasetError", "Method", "ModelOutput", "Predictor", "SplitData", "StepOutput"),
    *(
        "TrainConfig",
        "TrainingRun",
        "compute_metrics",
        "load_split",
        "make_method",
        "make_model",
        "prepare",
        "total_loss",
    ),
]


class OwnNetwork(nn.Module):
    """A network that knows nothing of this project but what a model returns."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> training.ModelOutput:
        cams = self.maps(images)
        return training.ModelOutput(cams.mean((2, 3)), cams)


def test_the_names_stay_as_they_are() -> None:
    assert training.__all__ == NAMES == dir(training)
    assert all(getattr(training, name).__doc__ for name in NAMES)
    with pytest.raises(AttributeError, match="has no attribute 'make_methods'"):
        training.make_methods  # type: ignore[attr-defined]  # noqa: B018


def test_a_method_trains_a_network_in_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 16, 16), torch.eye(4).repeat(2, 1)
    model = OwnNetwork()
    method = training.make_method("ignore", num_classes=4, num_examples=8, num_epochs=3, warmup_epochs=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for epoch in range(1, 4):
        batch = training.Batch(torch.arange(8), images, images.flip(3), labels, None)
        output = method.step(model, batch, epoch)
        loss, parts = training.total_loss(output.parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.apply_updates(output, loss.isfinite())
        losses.append(loss.item())
    assert parts.keys() == {"spbc", "ignore", "reg"}
    assert losses[2] < losses[0]
    assert int(method.get_buffer("num_gap_updates")) == 3


def test_a_wrong_method_or_setting_is_named_with_the_nearest() -> None:
    sizes = {"num_classes": 4, "num_examples": 8, "num_epochs": 3}
    with pytest.raises(training.ConfigError, match=r"Did you mean method\.cam_threshold"):
        training.make_method("ignore", **sizes, cam_treshold=0.3)
    with pytest.raises(training.ConfigError, match="Did you mean ignore"):
        training.make_method("ignor", **sizes)
    with pytest.raises(training.ConfigError, match=r"method\.cam_threshold must be less than 1"):
        training.make_method("ignore", **sizes, cam_threshold=7)


@pytest.mark.slow
def test_the_notebook_with_a_loop_of_ones_own_runs() -> None:
    notebooks.check_outputs("own_training_loop")
    variables = notebooks.run_cells("own_training_loop", {"IMAGES": 64, "EPOCHS": 3})
    assert list(variables["ignore"].index) == [1, 2, 3]
    assert variables["ignore"]["train/rejection_recall"].notna().any()
