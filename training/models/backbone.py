"""Build trunks: any CNN from timm or torchvision without its classifier, the small one for the digit scenes, or CLIP's.

Their initial weights come by name, from a file, or are random; see :mod:`training.models.weights`.
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
from training.models.clip_trunk import ClipTrunk, build_clip_trunk
from training.models.weights import check_weights_name, read_weights

_CLASSIFIERS = ("fc.", "classifier.", "head.", "avgpool.")
# The torchvision families whose forward pass runs their children in order: ResNet, RegNet, ShuffleNet, MNASNet. Others
# do something between their children, which a Sequential of them would lose.
_LAST_STAGES = ("layer4", "trunk_output", "stage4", "layers")


WIDTHS = (12, 24, 48)
"""Channels of the digits trunk, stage by stage."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions plus a projected skip connection."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.skip = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, num_in, h, w) to (B, num_out, h / stride, w / stride)."""
        # In place is safe, because BatchNorm's backward does not need its output, and faster on maps this small.
        inner = torch.relu_(self.bn1(self.conv1(images)))
        return torch.relu_(self.bn2(self.conv2(inner)).add_(self.skip(images)))


class DigitsTrunk(nn.Sequential):
    """Trunk of the digit scenes, a residual net of stride 4: (B, 3, 40, 40) -> (B, 48, 10, 10)."""

    def __init__(self) -> None:
        first, second, third = WIDTHS
        stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        super().__init__(stem, ResidualBlock(first, second, 2), ResidualBlock(second, third, 1))


@dataclass(frozen=True)
class Trunk:
    """An image encoder (B, 3, H, W) -> (B, num_features, h, w).

    Attributes:
        module: The encoder.
        num_features: Its output channels.
        weights_hash: Hash of its initial weights, ``none`` if they are random.
    """

    module: nn.Module
    num_features: int
    weights_hash: str


def build_trunk(config: ModelConfig, pretext_file: Path | None = None) -> Trunk:
    """Build the trunk that ``model.backbone`` names, with the weights that ``model.weights`` names.

    Args:
        config: Backbone and weights.
        pretext_file: Weights of the digits trunk that was pretrained for the scenes.

    Raises:
        ConfigError: The backbone is unknown, or is not a CNN with a feature map.
        WeightsError: The weights cannot be loaded here, or do not fit.
    """
    module = _build_module(config)
    state = read_weights(config, pretext_file)
    if state is not None and isinstance(module, ClipTrunk):
        state = {key: value for key, value in state.items() if key.startswith("visual.")}  # without the text network
    if state is not None:
        _load(module, state, config)
    return Trunk(
        module, _count_features(module, config.backbone), "none" if state is None else hash_weights(module.state_dict())
    )


def check_trunk(config: ModelConfig) -> None:
    """Check that the trunk exists, is a CNN, and has initial weights of the given name; nothing is downloaded.

    Raises:
        ConfigError: It does not exist, is not a CNN or has no such weights; or its stem is to be frozen and it is not
            a ResNet.
    """
    module = _build_module(config)
    _count_features(module, config.backbone)
    check_weights_name(config)
    if config.frozen_stem:
        list_stem(module, config.backbone)


def list_stem(trunk: nn.Module, backbone: str) -> list[str]:
    """Return the names of the parts of a ResNet's trunk before its second stage: its stem and its first stage.

    Raises:
        ConfigError: The trunk is not a ResNet.
    """
    second = "2" if isinstance(trunk, DigitsTrunk) else "layer2"
    names = [name for name, _ in trunk.named_children()]
    if second not in names:
        raise ConfigError(
            f"model.frozen_stem=true needs a ResNet, whose first stage is known, but got model.backbone={backbone}. "
            "Set model.frozen_stem=false, or use a ResNet such as torchvision/resnet50 or timm/resnet50",
            "model.frozen_stem",
        )
    return names[: names.index(second)]


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a state dict's names and values, whichever file it came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _build_digits(name: str) -> nn.Module:
    if name != "resnet12":
        raise ConfigError(
            f"There is no backbone digits/{name}. The digits family has only digits/resnet12", "model.backbone"
        )
    return DigitsTrunk()


def _build_torchvision(name: str) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown_backbone("torchvision", name, known)
    model = torchvision.models.get_model(name, weights=None)
    if isinstance(model, torchvision.models.DenseNet):
        # DenseNet's forward applies this ReLU between its features and its classifier.
        return nn.Sequential(OrderedDict(features=model.features, relu=nn.ReLU()))
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


def _build_module(config: ModelConfig) -> nn.Module:
    library, _, name = config.backbone.partition("/")
    return build_clip_trunk(config) if library == "clip" else _BUILDERS[library](name)


def _unknown_backbone(library: str, name: str, known: list[str]) -> ConfigError:
    nearest = nearest_word(name, known)
    hint = f" Did you mean {library}/{nearest}?" if nearest else ""
    return ConfigError(f"{library} has no model {name} (model.backbone={library}/{name}).{hint}", "model.backbone")


def _load(module: nn.Module, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    own = module.state_dict()
    # Drop the classifier's tensors, but only those that the trunk itself does not have.
    kept = {key: value for key, value in state.items() if key in own or not key.startswith(_CLASSIFIERS)}
    missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
    others = [key for key, value in kept.items() if key not in own or value.shape != own[key].shape]
    if missing or others:
        raise WeightsError(
            f"model.weights={config.weights} does not fit {config.backbone}: {len(missing)} of its tensors are missing "
            f"and {len(others)} are unknown or of another shape (first: {(missing or others)[0]})"
        )
    # Not strict, because older files lack num_batches_tracked; everything else was checked above.
    module.load_state_dict(kept, strict=False)


def _count_features(module: nn.Module, backbone: str) -> int:
    """Return the trunk's output channels, or raise ConfigError if it is not a CNN.

    Two image sizes show this: a transformer takes only one size, returns tokens, or has its channels last.
    """
    was_training = module.training
    # In eval mode, so that the images of zeros below do not enter BatchNorm's statistics.
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
