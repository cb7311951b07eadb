"""Freeze the stem and the first stage of a trunk, as the releases of Query2Label and of PLC + LAC do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from torch import nn

from training.errors import ConfigError
from training.models.backbone import DigitsTrunk
from training.models.base import Network, find_norms


def freeze_stem(model: Network, backbone: str) -> None:
    """Keep everything before the second stage of a model's trunk as it is, whatever the mode of the model.

    Of a ResNet these are the stem and ``layer1`` (in ResNet-50 the 222,400 weights of ``conv1`` and of the convolutions
    of ``layer1``, and their BatchNorms). The releases freeze the weights there and the BatchNorms of the whole trunk,
    which is ``model.frozen_bn``; BatchNorms of the frozen part keep statistics and affine parameters in either case.

    Args:
        model: With its initial weights, and with any replacement of its BatchNorms done.
        backbone: The trunk's name, for the message.

    Raises:
        ConfigError: The trunk has no stages by the names of a ResNet.
    """
    parts = [f"trunk.{name}" for name in _names_before_second_stage(model.trunk)]
    if not parts:
        raise ConfigError(
            f"model.frozen_stem=true needs a ResNet, whose first stage is known, but got model.backbone={backbone}. "
            "Set model.frozen_stem=false, or use a ResNet such as torchvision/resnet50 or timm/resnet50",
            "model.frozen_stem",
        )
    model.frozen_norms += tuple(parts)
    for part in parts:
        module = model.get_submodule(part).requires_grad_(False)
        for norm in find_norms(module):
            norm.eval()


def _names_before_second_stage(trunk: nn.Module) -> Iterator[str]:
    second = "2" if isinstance(trunk, DigitsTrunk) else "layer2"
    names = [name for name, _ in trunk.named_children()]
    return takewhile(lambda name: name != second, names if second in names else [])
