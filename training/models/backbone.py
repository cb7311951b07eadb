"""Trunks: any timm or torchvision CNN without its classifier, and the embedded one; with weights by name, from a file,
or none.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.config.run import ModelConfig
from training.config.spelling import nearest_word
from training.errors import ConfigError, WeightsError
from training.models.digits_trunk import DigitsTrunk
from training.models.weights import read_weights

_CLASSIFIERS = ("fc.", "classifier.", "head.", "avgpool.")
# Of the torchvision families whose forward pass is their children in order: ResNet, RegNet, ShuffleNet, MNASNet.
_LAST_STAGES = ("layer4", "trunk_output", "stage4", "layers")


@dataclass(frozen=True)
class Trunk:
    """An image encoder (B, 3, H, W) -> (B, num_features, h, w), and the hash of its initial weights (``none`` if
    random).
    """

    module: nn.Module
    num_features: int
    weights_hash: str


def build_trunk(config: ModelConfig, pretext_file: Path | None = None) -> Trunk:
    """Build the trunk that ``model.backbone`` names, with the weights that ``model.weights`` names.

    Args:
        config: Backbone and weights.
        pretext_file: Where the digits trunk lies that was trained beside the scenes.

    Raises:
        ConfigError: No such backbone, or no CNN with a feature map.
        WeightsError: The weights cannot be had here, or do not fit.
    """
    library, _, name = config.backbone.partition("/")
    module = _BUILDERS[library](name)
    state = read_weights(config, pretext_file)
    if state is not None:
        _load(module, state, config)
    return Trunk(
        module, _count_features(module, config.backbone), "none" if state is None else hash_weights(module.state_dict())
    )


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a state dict's names and values, whatever file it came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _build_digits(name: str) -> nn.Module:
    if name != "resnet12":
        raise ConfigError(
            f"model.backbone must be digits/resnet12 in the digits family, but got digits/{name}", "model.backbone"
        )
    return DigitsTrunk()


def _build_torchvision(name: str) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown_backbone("torchvision", name, known)
    model = torchvision.models.get_model(name, weights=None)
    if isinstance(model, torchvision.models.DenseNet):
        return nn.Sequential(
            OrderedDict(features=model.features, relu=nn.ReLU())
        )  # its forward has this ReLU between the two
    if isinstance(getattr(model, "features", None), nn.Module):
        return nn.Sequential(OrderedDict(features=model.features))
    if any(hasattr(model, last) for last in _LAST_STAGES):
        return nn.Sequential(
            OrderedDict((key, child) for key, child in model.named_children() if f"{key}." not in _CLASSIFIERS)
        )
    raise _no_feature_map(f"torchvision/{name}")


def _build_timm(name: str) -> nn.Module:
    import timm

    try:
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except RuntimeError as error:
        raise _unknown_backbone("timm", name, timm.list_models()) from error
    return module


_BUILDERS = {"digits": _build_digits, "torchvision": _build_torchvision, "timm": _build_timm}


def _unknown_backbone(library: str, name: str, known: list[str]) -> ConfigError:
    nearest = nearest_word(name, known)
    hint = f" Did you mean {library}/{nearest}?" if nearest else ""
    return ConfigError(
        f"model.backbone must be a model of {library}, but got {library}/{name}.{hint}", "model.backbone"
    )


def _load(module: nn.Module, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    own = module.state_dict()
    kept = {key: value for key, value in state.items() if key in own or not key.startswith(_CLASSIFIERS)}
    missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
    others = [key for key, value in kept.items() if key not in own or value.shape != own[key].shape]
    if missing or others:
        raise WeightsError(
            f"model.weights must fit {config.backbone}, but {config.weights} lacks {len(missing)} of its tensors and "
            f"has "
            f"{len(others)} others (first: {(missing or others)[0]})"
        )
    module.load_state_dict(kept, strict=False)


def _count_features(module: nn.Module, backbone: str) -> int:
    """Try the trunk on two sizes: a transformer takes one size only, or gives tokens, or has its channels last."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            small, large = (module(torch.zeros(1, 3, size, size)) for size in (96, 128))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _no_feature_map(backbone) from error
    module.train(was_training)
    if not isinstance(small, Tensor) or small.dim() != 4 or small.shape[1] != large.shape[1]:
        raise _no_feature_map(backbone)
    return small.shape[1]


def _no_feature_map(backbone: str) -> ConfigError:
    return ConfigError(
        f"model.backbone must be a CNN with a feature map (B, d, h, w) at any image size, but got {backbone}",
        "model.backbone",
    )
