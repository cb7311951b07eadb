"""Build models by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from training.config.run import ModelConfig
from training.models.backbone import Trunk, build_trunk
from training.models.base import Network
from training.models.batch_norm import convert_to_global, freeze
from training.models.frozen_stem import freeze_stem
from training.models.query2label import Query2Label
from training.models.resnet_cam import ResnetCam

MODELS: dict[str, Callable[[Trunk, int, ModelConfig], Network]] = {
    "resnet_cam": lambda trunk, num_classes, config: ResnetCam(trunk, num_classes, config.cam_boost),
    "query2label": Query2Label,
}
"""``model.name`` -> function that builds the model from a trunk, the number of classes and the settings."""


def build_model(
    config: ModelConfig,
    num_classes: int,
    device: torch.device,
    *,
    pretext_file: Path | None = None,
    distributed: bool = False,
) -> tuple[nn.Module, str]:
    """Build a model in channels-last memory format.

    Args:
        config: Which model.
        num_classes: C.
        device: Where to put it.
        pretext_file: Weights of the digits trunk.
        distributed: Whether BatchNorm counts the batch of all ranks.

    Returns:
        The model and the hash of its initial trunk weights.

    Raises:
        ConfigError: The backbone does not exist, or is not one whose stem can be frozen.
        WeightsError: The weights cannot be loaded.
    """
    trunk = build_trunk(config, pretext_file)
    network = MODELS[config.name](trunk, num_classes, config)
    model: nn.Module = network
    if config.frozen_bn:
        freeze(network)
    elif distributed:
        model = convert_to_global(model, device)
    if config.frozen_stem:
        freeze_stem(network, config.backbone)
    # Channels-last is the layout that convolutions are fastest in, on GPUs and in oneDNN.
    return model.to(device, memory_format=torch.channels_last), trunk.weights_hash  # type: ignore[call-overload]
