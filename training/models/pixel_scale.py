"""Fit pretrained weights to ImageNet's normalisation of pixels, if they were trained with another one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_PROBE_PX = 33


@dataclass(frozen=True)
class Pixels:
    """How pixels p in [0, 1] are normalised: (p - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What a run gives to every trunk for photos."""
HALF = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Pixels in [-1, 1], as the first EfficientNets of TensorFlow expect them."""


@torch.no_grad()
def fold_pixels(module: nn.Module, theirs: Pixels) -> bool:
    """Change a network's first layers so that it takes ImageNet-normalised pixels.

    With x the pixels normalised by ImageNet's mean m and deviation s, and mean m', deviation s' those that the network
    was trained with, the first convolution is linear in (x s + m - m') / s'. Its weights are multiplied by s / s', and
    the constant goes into its bias, or else into the mean of the BatchNorm after it. At the border of an image the
    result differs a little: padding is 0 after normalisation, so it stood for the colour m', and now stands for m.

    Returns:
        Whether it was done. It cannot be if the network does not begin with a convolution over three channels, plainly
        weighted, with a bias or a BatchNorm; then nothing is changed.
    """
    conv, norm = _find_stem(module)
    if conv is None or conv.in_channels != 3 or (conv.bias is None and norm is None):
        return False
    was_training = module.training
    module.eval()
    stem = nn.Sequential(conv) if conv.bias is not None or norm is None else nn.Sequential(conv, norm)
    kept = {name: value.clone() for name, value in stem.state_dict().items()}
    pixels = torch.rand(2, 3, _PROBE_PX, _PROBE_PX, generator=torch.Generator().manual_seed(0))
    before = _middle(stem(_normalise(pixels, theirs)))
    scale, shift = (torch.tensor(values)[:, None, None] for values in _difference(theirs))
    constant = (conv.weight * shift).sum((1, 2, 3))
    conv.weight.mul_(scale)
    if conv.bias is not None:
        conv.bias.add_(constant)
    else:
        assert norm is not None
        assert norm.running_mean is not None
        norm.running_mean.sub_(constant)
    # Some convolutions standardise their weights first and are not linear in them; a trial shows what is true of all.
    done = torch.allclose(_middle(stem(_normalise(pixels, IMAGENET))), before, rtol=1e-3, atol=1e-3)
    if not done:
        stem.load_state_dict(kept)
    module.train(was_training)
    return done


def _find_stem(module: nn.Module) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
    """Return the first convolution, and the BatchNorm right after it."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    conv = layers[0] if layers and isinstance(layers[0], nn.Conv2d) else None
    norm = layers[1] if len(layers) > 1 and isinstance(layers[1], nn.BatchNorm2d) else None
    fits = conv is not None and norm is not None and norm.num_features == conv.out_channels
    return conv, norm if fits and norm is not None and norm.running_mean is not None else None


def _difference(theirs: Pixels) -> tuple[list[float], list[float]]:
    of = list(zip(IMAGENET.mean, IMAGENET.std, theirs.mean, theirs.std, strict=True))
    return [s / their_s for _, s, _, their_s in of], [(m - their_m) / their_s for m, _, their_m, their_s in of]


def _normalise(pixels: Tensor, how: Pixels) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return (pixels - mean) / std


def _middle(maps: Tensor) -> Tensor:
    # Away from the border, where padding makes a difference.
    height, width = maps.shape[-2:]
    return maps[..., height // 3 : -(height // 3), width // 3 : -(width // 3)]
