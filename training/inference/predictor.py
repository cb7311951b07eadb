"""A promoted model as files: safetensors + config + class names + a model card, and a small loader.

Nothing is pickled. ``model.safetensors`` holds the weights, ``config.json`` the run's flat configuration and the pixel
scale, ``classes.json`` the class names, ``README.md`` the card.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config.run import TrainConfig
from training.data.store.images import BadImageError, open_upright
from training.data.transforms import to_pixels
from training.data.views import PixelScale
from training.image_files import find_images
from training.inference.evaluation import restore_model

_BATCH = 64
_UNREADABLE = (OSError, BadImageError)


@dataclass(frozen=True)
class BrokenImage:
    """A file that could not be scored, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """What a model says of a folder.

    Attributes:
        table: ``file`` (relative to the folder) and one column of scores in 0-1 per class, sorted by file.
        broken: The files that could not be read as images; the table lacks them.
    """

    table: pa.Table
    broken: tuple[BrokenImage, ...]


def save_model(folder: Path, config: TrainConfig, state: dict[str, Any], scale: PixelScale, card: str) -> None:
    """Write a model folder.

    Args:
        folder: Made if absent.
        config: Of the run.
        state: What :meth:`training.loop.checkpoint.CheckpointStore.load_best` gives.
        scale: Normalisation of the run's dataset.
        card: Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state["model"].items()}, folder / "model.safetensors")
    described = {
        "config": config.flatten(),
        "epoch": state["epoch"],
        "mean": scale.mean.tolist(),
        "std": scale.std.tolist(),
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "classes.json").write_text(json.dumps(state["classes"]) + "\n")
    (folder / "README.md").write_text(card)


class Predictor:
    """A loaded model.

    Attributes:
        config: Of the run it comes from.
        classes: C names.
    """

    def __init__(
        self, config: TrainConfig, classes: Sequence[str], weights: dict[str, Tensor], scale: PixelScale
    ) -> None:
        self.config, self.classes, self._scale = config, tuple(classes), scale
        self.weights = weights
        self._model = restore_model(config, {"classes": list(classes), "model": weights}, torch.device("cpu"))

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Load a folder that :func:`save_model` wrote.

        Raises:
            ValueError: It is no such folder.
        """
        missing = [
            name for name in ("model.safetensors", "config.json", "classes.json") if not (folder / name).is_file()
        ]
        if missing:
            raise ValueError(
                f"model folder must hold model.safetensors, config.json and classes.json, but {folder} lacks "
                f"{missing[0]}"
            )
        described = json.loads((folder / "config.json").read_text())
        scale = PixelScale(torch.tensor(described["mean"]), torch.tensor(described["std"]))
        classes = json.loads((folder / "classes.json").read_text())
        return cls(TrainConfig.from_flat(described["config"]), classes, load_file(folder / "model.safetensors"), scale)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return logits (N, C) of uint8 images (N, 3, H, W) at the model's image size."""
        parts = [self._model(self._scale.normalise(part)).logits for part in images.split(_BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, len(self.classes))

    def predict_folder(self, folder: Path) -> Predictions:
        """Score every image below a folder.

        Raises:
            ValueError: There is no folder, or no image in it.
        """
        files = find_images(folder)
        names: list[str] = []
        broken: list[BrokenImage] = []
        parts = [torch.zeros(0, len(self.classes))]
        # A part at a time: a folder of originals need not fit into memory.
        for start in range(0, len(files), _BATCH):
            pixels = []
            for path in files[start : start + _BATCH]:
                name = str(path.relative_to(folder))
                try:
                    pixels.append(self._read(path))
                    names.append(name)
                except _UNREADABLE as error:
                    broken.append(BrokenImage(name, _describe(error)))
            if pixels:
                parts.append(self.logits(torch.stack(pixels)).sigmoid())
        scores = torch.cat(parts).numpy()
        columns = {name: pa.array(scores[:, column], pa.float32()) for column, name in enumerate(self.classes)}
        return Predictions(pa.table({"file": pa.array(names, pa.string())} | columns), tuple(broken))

    def _read(self, path: Path) -> Tensor:
        # As a store reads what a model is trained on: upright, 16 bits scaled to 8.
        size = self.config.data.image_size
        return to_pixels(
            open_upright(path.read_bytes()).resize((size, size), Image.Resampling.BILINEAR), flip=False
        ).permute(2, 0, 1)


def _describe(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
