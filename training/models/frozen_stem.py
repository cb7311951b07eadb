"""Freeze the stem and the first stage of a trunk, as the releases of Query2Label and of PLC + LAC do."""

from __future__ import annotations

from training.models.backbone import list_stem
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
        ConfigError: The trunk is not a ResNet.
    """
    parts = [f"trunk.{name}" for name in list_stem(model.trunk, backbone)]
    model.frozen_norms += tuple(parts)
    for part in parts:
        module = model.get_submodule(part).requires_grad_(False)
        for norm in find_norms(module):
            # From now on, train() leaves it in this mode.
            norm.eval()
