"""Prepare what needs no download: the digit scenes, the trunk pretrained for them, and networks that start from it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.cache import cache_dir, making
from training.config.run import DataConfig, TrainConfig
from training.data.digits import (
    DEFAULT_COUNTS,
    NUM_CLASSES,
    DigitsSpec,
    ScenesManifest,
    digits_folder,
    make_pretext_images,
    make_scenes,
)
from training.data.registry import dataset_info, digits_spec
from training.data.views import PixelScale, draw_shifts, shift
from training.models.backbone import WIDTHS, DigitsTrunk
from training.models.registry import build_model
from training.seeding import named_generator, seed_everything

# If you change one of these, increase RECIPE_VERSION too: otherwise the cached trunk would be used. Results on digits
# can then no longer be compared with earlier ones.
PRETEXT_EPOCHS = 8
PRETEXT_LR = 3e-3
PRETEXT_BATCH = 32


def is_prepared(config: DataConfig) -> bool:
    """Return whether :func:`prepare` would have nothing to do."""
    return config.name != "digits" or (digits_folder(digits_spec(config), cache_dir()) / "manifest.json").is_file()


def prepare(config: DataConfig) -> None:
    """Make the digit scenes of ``config`` and their trunk, unless they are cached; do nothing for other datasets.

    Every process that reads the scenes calls this first, because a trial may run on a node that no driver has run on.
    One process per node makes them, and the others wait. A folder appears in the cache complete or not at all.

    Raises:
        ConfigError: The scenes do not exist in this image size.
        OSError: The cache cannot be written.
    """
    if is_prepared(config):
        return
    spec = digits_spec(config)
    target = digits_folder(spec, cache_dir())
    with making(target):
        if not is_prepared(config):  # another process may have made it while we waited
            _make(spec, target)


def make_model(config: TrainConfig, device: torch.device | None = None) -> nn.Module:
    """Build the network of a run for the classes of its dataset, with its initial weights.

    Args:
        config: Its sections ``data`` and ``model`` count.
        device: Where to put it; the CPU by default.

    Returns:
        A module that maps normalised images (B, 3, H, W) to a :class:`training.models.base.ModelOutput`.

    Raises:
        ConfigError, DatasetError, WeightsError: The dataset, the backbone or its weights are not there.
    """
    prepare(config.data)
    info = dataset_info(config.data)
    place = device or torch.device("cpu")
    return build_model(config.model, len(info.classes), place, pretext_file=info.pretext_file)[0]


def pretrain_trunk(images: Tensor, classes: Tensor, scale: PixelScale, seed: int) -> dict[str, Tensor]:
    """Train the digits trunk to classify single rotated digits, in place of pretraining on ImageNet.

    Args:
        images: uint8 (N, 3, 40, 40).
        classes: long (N,).
        scale: Mean and deviation of the training scenes.
        seed: Seed for initialisation, order and shifts.

    Returns:
        The trunk's state dict.
    """
    # On a copy of the global generator, so that preparing scenes does not change what the caller draws next.
    with torch.random.fork_rng(devices=[]):
        seed_everything("pretext", seed)
        trunk = DigitsTrunk()
        model = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], NUM_CLASSES))
    model = model.to(memory_format=torch.channels_last).train()
    num_steps = -(-len(images) // PRETEXT_BATCH)
    optimizer = torch.optim.Adam(model.parameters(), PRETEXT_LR, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PRETEXT_LR, total_steps=PRETEXT_EPOCHS * num_steps, pct_start=0.2
    )
    for epoch in range(PRETEXT_EPOCHS):
        generator = named_generator("pretext", seed, epoch)
        shifts = draw_shifts(len(images), generator)
        for rows in torch.randperm(len(images), generator=generator).split(PRETEXT_BATCH):
            optimizer.zero_grad()
            cross_entropy(model(scale.normalise(shift(images[rows], shifts[rows]))), classes[rows]).backward()
            optimizer.step()
            schedule.step()
    # safetensors refuses tensors that are not contiguous, which those in channels-last format are not.
    return {name: value.detach().contiguous() for name, value in trunk.state_dict().items()}


def _make(spec: DigitsSpec, target: Path) -> None:
    # Next to the target, because a rename is atomic only within one file system.
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        # With one thread, because the last bits of scale and trunk depend on the number of threads, and the hash of the
        # weights decides whether results may be compared.
        with _one_thread():
            _write(spec, scratch)
        _install(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(spec: DigitsSpec, folder: Path) -> None:
    splits = {split: make_scenes(spec, split) for split in DEFAULT_COUNTS}
    hashes = {split: _save(tensors, folder / f"{split}.safetensors") for split, tensors in splits.items()}
    scale = PixelScale.of(splits["train"]["images"])
    trunk = _save(pretrain_trunk(*make_pretext_images(spec), scale, spec.scene_seed), folder / "trunk.safetensors")
    data_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    manifest = ScenesManifest(hashes, data_hash, trunk, scale.mean.tolist(), scale.std.tolist())
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> str:
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _install(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError:
        # On a file system without locks, another process may have finished first: use what it made.
        if not (target / "manifest.json").is_file():
            raise
