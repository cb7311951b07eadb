"""Load a trunk's initial weights: from a file, or by name through torchvision's or timm's own download and cache."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.cache import cache_dir, making
from training.config.run import ModelConfig
from training.errors import ConfigError, WeightsError, first_line
from training.models.pixel_scale import IMAGENET, Pixels, fold_pixels

FILES = (".safetensors", ".pth", ".pt")
_REACH_S = 5
_WAYS_OUT = (
    "Either run once on a machine with a network (the weights stay in the library's cache), or use a file: "
    "--set model.weights=FILE"
)


def read_weights(config: ModelConfig, pretext_file: Path | None = None) -> Mapping[str, Tensor] | None:
    """Return the state dict that ``model.weights`` names for ``model.backbone``; None for ``none``.

    Named weights are downloaded once per node: one process downloads, and the others wait and find them in the
    library's cache.

    Args:
        config: Backbone and weights.
        pretext_file: Weights of the digits trunk that was pretrained for the scenes.

    Raises:
        ConfigError: The backbone has no weights of this name.
        WeightsError: The weights cannot be loaded here, or the file holds no weights.
    """
    library, _, name = config.backbone.partition("/")
    if config.weights == "none":
        return None
    if config.weights == "pretext":
        if library != "digits" or pretext_file is None:
            raise ConfigError(
                f"model.weights=pretext exists only for digits/resnet12, but got model.backbone={config.backbone}",
                "model.weights",
            )
        return load_file(pretext_file)
    path = Path(config.weights)
    if path.is_file():
        return read_state(path, f"model.weights={path}")
    if path.suffix in FILES:
        raise WeightsError(f"The file {config.weights} (model.weights) does not exist")
    find_source = _SOURCES.get(library)
    if find_source is None:
        raise _unknown(config.weights, ["pretext"])
    asked = f"model.weights={config.weights} for {config.backbone}"
    return fetch_state(find_source(name, config.weights), asked, _WAYS_OUT)


def check_weights_name(config: ModelConfig) -> None:
    """Check that ``model.weights`` exists for ``model.backbone``, by name or as a file, without loading anything.

    Raises:
        ConfigError: The backbone has no weights of this name.
    """
    library, _, name = config.backbone.partition("/")
    find_source = _SOURCES.get(library)
    if config.weights != "none" and Path(config.weights).suffix not in FILES and find_source is not None:
        find_source(name, config.weights)


def read_state(path: Path, asked: str) -> Mapping[str, Tensor]:
    """Read named tensors from a file.

    Args:
        path: ``.safetensors``, ``.pth`` or ``.pt``.
        asked: What the user wrote, for messages.

    Raises:
        WeightsError: It holds something else, or is damaged.
    """
    try:
        # weights_only, so that a pickle of anything else is refused and cannot run code.
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # the readers raise many types for bytes that are not weights
        raise WeightsError(
            f"{asked} cannot be read: {first_line(error).rstrip('.')}. "
            "Use a complete .safetensors file, or a .pth file that holds only tensors"
        ) from error
    # Training scripts tend to save the weights under one of these names, next to the optimiser's state.
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{asked} does not hold named tensors (a state dict)")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def expected_pixels(backbone: str) -> Pixels:
    """Return how the pixels were normalised that a library's weights of this backbone were trained with."""
    library, _, name = backbone.partition("/")
    if library != "timm":
        return IMAGENET  # true of all CNNs of torchvision
    import timm

    described = timm.get_pretrained_cfg(name)
    return IMAGENET if described is None else Pixels(tuple(described.mean), tuple(described.std))


@dataclass(frozen=True)
class Source:
    """A place that named weights come from.

    Attributes:
        url: Address on the host that serves them.
        find: Return the file in the library's cache, if it is there.
        load: Return the state dict, from that file if given, else through the library's own download.
    """

    url: str
    find: Callable[[], Path | None]
    load: Callable[[Path | None], Mapping[str, Tensor]]


def fetch_state(source: Source, asked: str, ways_out: str) -> Mapping[str, Tensor]:
    """Return a state dict from the library's cache, which one process of a node fills by a download if need be.

    Args:
        source: Where the weights come from.
        asked: What the user wrote, for messages.
        ways_out: What to do without a network, as a sentence.

    Raises:
        WeightsError: They are not in the cache, and cannot be downloaded; or the cached file is damaged.
    """
    try:
        if source.find() is None:
            with (
                making(cache_dir() / "weights"),
                redirect_stdout(sys.stderr),
            ):  # torchvision prints its progress to stdout
                if (
                    source.find() is None
                ):  # looked up again, because another process may have fetched it in the meantime
                    _reach(source.url)
                return source.load(source.find())
        return source.load(source.find())
    except Exception as error:
        cached = source.find()
        if cached is not None:
            raise WeightsError(
                f"The cached file of {asked} cannot be read: {cached}: {first_line(error).rstrip('.')}. "
                f"Delete it. {ways_out}"
            ) from error
        raise WeightsError(
            f"{asked} is not in the cache, and the download failed: {first_line(error).rstrip('.')}. {ways_out}"
        ) from error


def _torchvision_source(name: str, weights: str) -> Source:
    import torchvision

    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise _unknown(weights, list(known))
    url = known[weights].url

    def load(cached: Path | None) -> Mapping[str, Tensor]:
        # Through the whole model, because some files use other names for their tensors, which the model translates.
        state: Mapping[str, Tensor] = torchvision.models.get_model(name, weights=weights, progress=False).state_dict()
        return state

    return Source(url, partial(_find_in_torch_hub, url), load)


def _timm_source(name: str, weights: str) -> Source:
    import timm
    from huggingface_hub import constants

    tagged = name if weights == "default" else f"{name.split('.')[0]}.{weights}"
    known = timm.list_pretrained(f"{name.split('.')[0]}.*")
    source = timm.get_pretrained_cfg(tagged) if tagged in [*known, name] else None
    if source is None or not known:
        raise _unknown(weights, ["default", *(tag.split(".", 1)[1] for tag in known)])
    hub_id, url = source.hf_hub_id, str(source.url or constants.ENDPOINT)

    def load(cached: Path | None) -> Mapping[str, Tensor]:
        # Pass the cached file: without a network, the hub's client would retry for most of a minute even if it is
        # cached.
        overlay = None if cached is None else {"file": str(cached)}
        model = timm.create_model(
            tagged, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, global_pool=""
        )
        # Some were trained on pixels in [-1, 1]. Where the stem cannot be changed, they are used as they are.
        if (pixels := expected_pixels(f"timm/{tagged}")) != IMAGENET:
            fold_pixels(model, pixels)
        state: Mapping[str, Tensor] = model.state_dict()
        return state

    if hub_id:
        return Source(constants.ENDPOINT, partial(find_in_hub, hub_id), load)
    return Source(url, partial(_find_in_torch_hub, url), load)


def _find_in_torch_hub(url: str) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    return path if path.is_file() else None


def find_in_hub(hub_id: str, names: Sequence[str] = ("model.safetensors", "pytorch_model.bin")) -> Path | None:
    """Return the first of these files of a repository of the hub that is in the cache."""
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(hub_id, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _reach(url: str) -> None:
    """Raise OSError if the host does not answer within seconds; the libraries themselves wait for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_S).close()
    except urllib.error.HTTPError:
        return  # an error status is an answer too: the host is up


def _clip_source(name: str, weights: str) -> Source:
    # clip.py builds on this module.
    from training.models.clip import ClipName, clip_source

    clip = ClipName.parse(f"clip/{name}")
    if weights != clip.tag:
        raise ConfigError(
            f"model.weights must be {clip.tag}, a file or none for model.backbone=clip/{name}, but got "
            f"model.weights={weights}. Other weights are named in the backbone, as in clip/{clip.arch}/TAG",
            "model.weights",
        )
    return clip_source(clip.described)


_SOURCES = {"torchvision": _torchvision_source, "timm": _timm_source, "clip": _clip_source}


def _unknown(weights: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"model.weights must be one of {', '.join(known)}, a file or none, but got model.weights={weights}",
        "model.weights",
    )
