"""CLIP (Radford et al., 2021): how well images fit the names of classes. The networks are open_clip's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from training.config.spelling import nearest_word
from training.errors import ConfigError, WeightsError
from training.models.weights import Source, fetch_state, find_in_hub, read_state

DEFAULT_TAG = "openai"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Of the contrastive loss; scores have a temperature of their own.
_UNUSED = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class ClipName:
    """A network of open_clip and the training that its weights come from.

    Attributes:
        arch: Such as ``ViT-B-16``.
        tag: Such as ``openai``; it also says which activation the network has, and how pixels are normalised.
    """

    arch: str
    tag: str

    @classmethod
    def parse(cls, name: str) -> ClipName:
        """Read ``clip/ARCH`` or ``clip/ARCH/TAG``; the tag is ``openai`` by default.

        Raises:
            ConfigError: It is something else, or open_clip does not have it.
        """
        library, _, rest = name.partition("/")
        arch, _, tag = rest.partition("/")
        if library != "clip" or not arch:
            raise ConfigError(f"A CLIP model must be clip/ARCH or clip/ARCH/TAG, such as clip/ViT-B-16, but got {name}")
        open_clip = import_open_clip()
        if arch not in (known := open_clip.list_models()):
            nearest = nearest_word(arch, known)
            hint = f" Did you mean clip/{nearest}?" if nearest else ""
            raise ConfigError(f"open_clip has no model {arch}, but got {name}.{hint}")
        tags = open_clip.list_pretrained_tags_by_model(arch)
        if (tag or DEFAULT_TAG) not in tags:
            raise ConfigError(f"clip/{arch} has weights {', '.join(tags) or 'of no name'}, but got {name}")
        return cls(arch, tag or DEFAULT_TAG)

    def __str__(self) -> str:
        return f"clip/{self.arch}" if self.tag == DEFAULT_TAG else f"clip/{self.arch}/{self.tag}"

    @property
    def described(self) -> dict[str, Any]:
        """What open_clip knows about these weights."""
        return dict(import_open_clip().get_pretrained_cfg(self.arch, self.tag))


class Clip:
    """A CLIP network in eval mode.

    Args:
        network: open_clip's network, with weights.
        tokenize: Texts -> long (n, length).
        mean, std: Of the pixels that it was trained on, in 0-1 per channel.
    """

    def __init__(
        self,
        network: Any,
        tokenize: Callable[[list[str]], Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self._tokenize, self.device = tokenize, device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        size: int | tuple[int, int] = self.network.visual.image_size
        self.image_size = size[0] if isinstance(size, tuple) else size

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Return unit vectors float32 (n, d) of images uint8 (n, 3, H, W), which are resized to the network's square.

        CLIP's own preprocessing crops the centre of an image that is not square; here nothing is cut off.
        """
        pixels = images.to(self.device).float() / 255
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            # Bicubic values overshoot next to edges.
            pixels = interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return normalize(self.network.encode_image((pixels - self._mean) / self._std).float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors float32 (n, d) of texts; a long text is cut off at the network's length."""
        parts = [self.network.encode_text(self._tokenize([text]).to(self.device)).float() for text in texts]
        return normalize(torch.cat(parts), dim=-1)


def load_clip(name: ClipName, weights: Path | None, device: torch.device, ways_out: str) -> Clip:
    """Build a CLIP network with its weights.

    Args:
        name: Which.
        weights: A file that holds them; None takes them from the hub or its cache.
        device: Where to put it.
        ways_out: What to do if the hub cannot be reached, for the message.

    Raises:
        ConfigError: Its text network is one of the package transformers, which is not used here.
        WeightsError: The weights cannot be loaded, or do not fit.
    """
    open_clip, described = import_open_clip(), name.described
    _require_own_text(name)
    if weights is None:
        state = fetch_state(clip_source(described), f"{name}, weights {name.tag},", ways_out)
    elif weights.is_file():
        state = read_state(weights, f"The file {weights}")
    else:
        raise WeightsError(f"The file {weights} does not exist")
    network = build_network(name)
    asked = f"{name.tag} of the hub" if weights is None else str(weights)
    _load(network, {key: value for key, value in state.items() if key not in _UNUSED}, f"{asked} does not fit {name}")
    return Clip(network, open_clip.get_tokenizer(name.arch), described["mean"], described["std"], device)


def build_network(name: ClipName) -> Any:
    """Build open_clip's network with random weights, on the CPU.

    Raises:
        ConfigError: Its text network is one of the package transformers.
    """
    _require_own_text(name)
    with _silenced():  # it warns that its weights are random
        return import_open_clip().create_model(
            name.arch, load_weights=False, force_quick_gelu=bool(name.described.get("quick_gelu")), device="cpu"
        )


def _require_own_text(name: ClipName) -> None:
    text = import_open_clip().get_model_config(name.arch)["text_cfg"]
    if {"hf_model_name", "hf_tokenizer_name"} & text.keys():
        raise ConfigError(f"{name} needs the package transformers, which is not used here. Try clip/ViT-B-16")


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep warnings off the terminal that open_clip gives through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def clip_source(described: dict[str, Any]) -> Source:
    """Return where the weights are that open_clip describes."""
    from huggingface_hub import constants

    repository, _, file = str(described.get("hf_hub") or "").rpartition("/")
    names = (file,) if file else _HUB_FILES
    if not repository:
        raise WeightsError("These weights are not on the hub, so they have to come from a file")

    def load(cached: Path | None) -> dict[str, Tensor]:
        return dict(read_state(cached or _download(repository, names), "The file of the hub"))

    return Source(constants.ENDPOINT, partial(find_in_hub, repository, names), load)


def describe_hub_file(name: ClipName) -> str:
    """Return which file of the hub holds the weights, in words."""
    repository, _, file = str(name.described.get("hf_hub") or "").rpartition("/")
    return f"{file or _HUB_FILES[0]} of {repository}" if repository else "its weights"


@torch.no_grad()
def score_images(
    clip: Clip, texts: Tensor, images: Tensor, num_tiles: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Score whole images, and their tiles on a grid.

    With s(v) = softmax over the classes of cos(v, class name) / temperature, these are s of the whole image (VLPL,
    arXiv 2310.15985), and the maximum and minimum of s over the tiles (DAMP, arXiv 2508.20381).

    Args:
        clip: The network.
        texts: Unit vectors (C, d) of the class names.
        images: uint8 (n, 3, H, W); no side may be shorter than the grid.
        num_tiles: g, of a g x g grid; pixels that do not fill a tile are left out at the right and at the bottom.
        temperature: Of the softmax; published: 0.01.

    Returns:
        Three matrices float32 (n, C) on the CPU: whole, maximum, minimum.
    """

    def scores(views: Tensor) -> Tensor:
        return (clip.encode_images(views) @ texts.T / temperature).softmax(-1)

    height, width = (side // num_tiles for side in images.shape[-2:])
    tiles = [
        images[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(num_tiles)
        for column in range(num_tiles)
    ]
    # One tile of all images at a time, so that a batch needs no more memory than without tiles.
    whole, of_tiles = scores(images), torch.stack([scores(tile) for tile in tiles])
    return whole.cpu(), of_tiles.amax(0).cpu(), of_tiles.amin(0).cpu()


def import_open_clip() -> ModuleType:
    """Import open_clip, which only CLIP needs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            f"CLIP needs the package open_clip_torch, which is not installed here ({error}). "
            "Install it: pip install open_clip_torch"
        ) from None
    module: ModuleType = open_clip
    return module


def _download(repository: str, names: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for name in names[:-1]:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
    return Path(huggingface_hub.hf_hub_download(repository, names[-1]))


def _load(network: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    own = {key: value for key, value in network.state_dict().items() if key not in _UNUSED}
    missing = sorted(own.keys() - state.keys())
    others = sorted(key for key, value in state.items() if key not in own or value.shape != own[key].shape)
    if missing or others:
        raise WeightsError(
            f"{complaint}: {len(missing)} of its tensors are missing and {len(others)} are unknown or of another shape "
            f"(first: {(missing or others)[0]}). Use the file as open_clip names its tensors"
        )
    network.load_state_dict(state, strict=False)
