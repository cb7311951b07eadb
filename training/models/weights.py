"""Initial weights of a trunk: by name through torchvision's or timm's own mechanism and cache, from a file, or none."""

from __future__ import annotations

import fcntl
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.cache import cache_dir
from training.config.run import ModelConfig
from training.errors import ConfigError, WeightsError

FILES = (".safetensors", ".pth", ".pt")
_REACH_S = 5
_WAYS_OUT = (
    "Either run once on a machine with a network (the weights stay in the library's cache), or point to a "
    "file: --set model.weights=FILE"
)


def read_weights(config: ModelConfig, pretext_file: Path | None = None) -> Mapping[str, Tensor] | None:
    """Return the state dict that ``model.weights`` names for ``model.backbone``; None for ``none``.

    Named weights are fetched once per node: of several processes one fetches, and the others wait and find them in the
    library's cache.

    Args:
        config: Backbone and weights.
        pretext_file: Where the digits trunk lies that was trained beside the scenes.

    Raises:
        ConfigError: No such weights.
        WeightsError: They cannot be had here, or the file holds none.
    """
    library, _, name = config.backbone.partition("/")
    if config.weights == "none":
        return None
    if config.weights == "pretext":
        if library != "digits" or pretext_file is None:
            raise ConfigError(
                f"model.weights=pretext belongs to digits/resnet12, but got model.backbone={config.backbone}",
                "model.weights",
            )
        return load_file(pretext_file)
    path = Path(config.weights)
    if path.is_file():
        return _read_file(path)
    if path.suffix in FILES:
        raise WeightsError(f"model.weights must be a file that exists, but got model.weights={config.weights}")
    find_source = {"torchvision": _torchvision_source, "timm": _timm_source}.get(library)
    if find_source is None:
        raise _unknown(config.weights, ["pretext"])
    return _fetch(config, find_source(name, config.weights))


def _read_file(path: Path) -> Mapping[str, Tensor]:
    try:
        # weights_only: a pickle of anything else is refused, and runs no code.
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # whatever a reader says of bytes that are no weights
        raise WeightsError(
            f"model.weights must be a whole file of weights (.safetensors, or .pth with tensors alone), "
            f"but {path} cannot be read as one: {_first_line(error)}"
        ) from error
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(f"model.weights must be a file of named tensors, but {path} holds something else")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class _Source:
    """Where named weights come from.

    Attributes:
        url: On the host that gives them.
        find: Returns the file in the library's cache, if it is there.
        load: Returns the state dict, from that file if it is given, else by the library's own fetching.
    """

    url: str
    find: Callable[[], Path | None]
    load: Callable[[Path | None], Mapping[str, Tensor]]


def _fetch(config: ModelConfig, source: _Source) -> Mapping[str, Tensor]:
    try:
        if source.find() is None:
            with _only_fetcher(), redirect_stdout(sys.stderr):  # torchvision prints what it fetches
                if source.find() is None:
                    _reach(source.url)
                return source.load(source.find())
        return source.load(source.find())
    except Exception as error:
        asked, cached = f"model.weights={config.weights} for {config.backbone}", source.find()
        if cached is not None:
            raise WeightsError(
                f"{asked} must be whole in the cache, but {cached} cannot be read: {_first_line(error)}. Delete it. "
                f"{_WAYS_OUT}"
            ) from error
        raise WeightsError(
            f"{asked} must be in the cache or within reach, but fetching failed: {_first_line(error)}. {_WAYS_OUT}"
        ) from error


def _torchvision_source(name: str, weights: str) -> _Source:
    import torchvision

    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise _unknown(weights, list(known))
    url = known[weights].url

    def load(cached: Path | None) -> Mapping[str, Tensor]:
        # By way of the whole model: some of the files have other names for their tensors, which it translates.
        state: Mapping[str, Tensor] = torchvision.models.get_model(name, weights=weights, progress=False).state_dict()
        return state

    return _Source(url, partial(_find_in_torch_hub, url), load)


def _timm_source(name: str, weights: str) -> _Source:
    import timm
    from huggingface_hub import constants

    tagged = name if weights == "default" else f"{name.split('.')[0]}.{weights}"
    known = timm.list_pretrained(f"{name.split('.')[0]}.*")
    source = timm.get_pretrained_cfg(tagged) if tagged in [*known, name] else None
    if source is None or not known:
        raise _unknown(weights, ["default", *(tag.split(".", 1)[1] for tag in known)])
    hub_id, url = source.hf_hub_id, str(source.url or constants.ENDPOINT)

    def load(cached: Path | None) -> Mapping[str, Tensor]:
        # Given the file, because without a network the hub's client asks for most of a minute even for what it has.
        overlay = None if cached is None else {"file": str(cached)}
        return timm.create_model(
            tagged, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, global_pool=""
        ).state_dict()

    if hub_id:
        return _Source(constants.ENDPOINT, partial(_find_in_hugging_face_hub, hub_id), load)
    return _Source(url, partial(_find_in_torch_hub, url), load)


def _find_in_torch_hub(url: str) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    return path if path.is_file() else None


def _find_in_hugging_face_hub(hub_id: str) -> Path | None:
    import huggingface_hub

    found = (
        huggingface_hub.try_to_load_from_cache(hub_id, name) for name in ("model.safetensors", "pytorch_model.bin")
    )
    return next((Path(path) for path in found if isinstance(path, str)), None)


@contextmanager
def _only_fetcher() -> Iterator[None]:
    path = cache_dir() / "weights.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reach(url: str) -> None:
    """Raise OSError where nobody answers within seconds; the libraries themselves wait for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_S).close()
    except urllib.error.HTTPError:
        return


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _unknown(weights: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"model.weights must be one of {', '.join(known)}, a file or none, but got model.weights={weights}",
        "model.weights",
    )
