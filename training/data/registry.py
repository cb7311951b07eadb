"""Load the dataset that a run's settings name; only :mod:`training.inference.evaluation` opens the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from training.cache import cache_dir
from training.config.run import DataConfig
from training.data.dataset_names import EMBEDDED, prepare_command
from training.data.digits import (
    CLASSES,
    DEFAULT_COUNTS,
    IMAGE_SIZE,
    DigitsSpec,
    checked_file,
    digits_folder,
    read_scenes_manifest,
    read_split,
)
from training.data.split import SplitData
from training.data.store.clip_scores import ClipScores, read_scores
from training.data.store.known_labels import KnownLabels
from training.data.store.reader import Store, open_store
from training.data.views import IMAGENET_SCALE, UNIT_SCALE, PixelScale
from training.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a prepared dataset that are known without opening a split.

    Attributes:
        data_hash: sha256 of everything that a run can see.
        classes: C names.
        scale: Normalisation: that of the digits, ImageNet's for photos (as their trunks were trained), or none.
        pretext_file: Weights of the trunk that was trained along with the dataset, if any.
        counts: Official phase (``train``, ``test``, or ``val`` if the source gives one) -> images.
    """

    data_hash: str
    classes: tuple[str, ...]
    scale: PixelScale
    pretext_file: Path | None
    counts: Mapping[str, int] = field(default_factory=dict)


def dataset_info(config: DataConfig) -> DatasetInfo:
    """Return the facts about the dataset that ``config`` names.

    Raises:
        ConfigError: The settings do not fit the dataset.
        DatasetError: It is not prepared, or is damaged.
    """
    unscaled = config.normalisation == "none"
    if config.name != EMBEDDED:
        manifest = open_dataset(config).manifest
        scale = UNIT_SCALE if unscaled else IMAGENET_SCALE
        return DatasetInfo(manifest.data_hash, manifest.classes, scale, None, manifest.counts)
    folder = digits_place(config)
    digits = read_scenes_manifest(folder)
    scale = UNIT_SCALE if unscaled else PixelScale(torch.tensor(digits.mean), torch.tensor(digits.std))
    trunk, spec = checked_file(folder, "trunk.safetensors", digits.trunk), digits_spec(config)
    counts = {"train": spec.num_train, "val": spec.num_val, "test": spec.num_test}
    return DatasetInfo(digits.data_hash, CLASSES, scale, trunk, counts)


def load_split(config: DataConfig, split: Literal["train", "val"]) -> SplitData:
    """Load a split for training or selection, never the test split.

    Raises:
        ConfigError, DatasetError: As :func:`dataset_info`.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, but got split={split}. Only promotion opens the test split")
    if config.name == EMBEDDED:
        return _read_digits(str(digits_place(config)), split, config.draw_seed)
    store = open_dataset(config)
    key = _Key(store.uri, store.manifest.data_hash)
    return _read_store(key, split, config.split_seed, config.draw_seed, KnownLabels.of(config))


def open_dataset(config: DataConfig) -> Store:
    """Open the store that ``config`` names.

    Raises:
        ConfigError: It is the store of another dataset, or its images have another size.
        DatasetError: It does not exist, or is damaged.
    """
    if config.store is None:
        raise DatasetError(
            f"{config.name} is not prepared: data.store is empty. Prepare it: {prepare_command(config.name)}"
        )
    store = open_store(config.store)
    manifest = store.manifest
    # A store with other classes would train without any error, but to no purpose.
    if manifest.name != config.name:
        raise ConfigError(
            f"data.store must be a store of {config.name}, but {config.store} is a store of {manifest.name}",
            "data.store",
        )
    if manifest.image_size != config.image_size:
        raise ConfigError(
            f"data.image_size must be {manifest.image_size}, the size in the store {config.store}, but got "
            f"data.image_size={config.image_size}. Change it, or prepare the dataset again with --image-size "
            f"{config.image_size}",
            "data.image_size",
        )
    return store


def load_clip_scores(config: DataConfig, model: str) -> tuple[ClipScores, str]:
    """Return CLIP's scores of the train split, in its order, and the hash of their file.

    Args:
        config: The dataset.
        model: Such as ``clip/ViT-B-16``.

    Raises:
        ConfigError: As :func:`dataset_info`, or the dataset is built in.
        DatasetError: There are no scores, or they are of other data; the message has the command that makes them.
    """
    if config.name == EMBEDDED:
        raise ConfigError(f"{EMBEDDED} has no scores of CLIP, which knows photos. Use a prepared dataset", "data.name")
    store = open_dataset(config)
    phase, rows = store.rows("train", config.split_seed, KnownLabels.of(config))
    found, digest = read_scores(store.uri, config.name, model, phase, store.manifest.data_hash)
    return found.scores.rows(store.places(phase)[rows]), digest


def digits_spec(config: DataConfig) -> DigitsSpec:
    """Return the spec of the scenes that ``config`` asks for.

    Raises:
        ConfigError: The image size is not that of the scenes.
    """
    if config.image_size != IMAGE_SIZE:
        raise ConfigError(
            f"data.image_size must be {IMAGE_SIZE} for digits, but got data.image_size={config.image_size}",
            "data.image_size",
        )
    counts = {f"num_{split}": getattr(config, f"num_{split}") or default for split, default in DEFAULT_COUNTS.items()}
    return DigitsSpec(scene_seed=config.scene_seed, **counts)


def digits_place(config: DataConfig) -> Path:
    """Return the folder of the scenes that ``config`` asks for; it may not exist yet.

    Raises:
        ConfigError: The image size is not that of the scenes.
    """
    return digits_folder(digits_spec(config), cache_dir())


# An actor is reused for many trials, and its splits are immutable.
@lru_cache(maxsize=4)
def _read_digits(folder: str, split: str, draw_seed: int) -> SplitData:
    return read_split(Path(folder), split, draw_seed)


@dataclass(frozen=True)
class _Key:
    """Cache key of a store: a store that was prepared again at the same place has a different hash."""

    uri: str
    data_hash: str


@lru_cache(maxsize=4)
def _read_store(
    key: _Key, split: Literal["train", "val"], split_seed: int, draw_seed: int, known: KnownLabels
) -> SplitData:
    return open_store(key.uri).split(split, split_seed, draw_seed, known)
