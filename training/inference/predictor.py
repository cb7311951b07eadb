"""Save a promoted model as plain files, load it again and score folders of images.

A model folder holds ``model.safetensors`` (the weights), ``config.json`` (the run's flat configuration, the pixel scale
and the sha256 of the other two), ``classes.json`` (the class names) and ``README.md`` (the model card). Nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config.run import TrainConfig
from training.data.store.images import BadImageError, open_upright
from training.data.transforms import to_pixels
from training.data.views import PixelScale
from training.errors import first_line
from training.image_files import find_images, utf8_name
from training.inference.evaluation import restore_model
from training.loop.arithmetic import set_arithmetic

DeviceName = Literal["auto", "cpu", "cuda"]
DEFAULT_BATCH_SIZE = 64
_HASHED = ("model.safetensors", "classes.json")
FILE_COLUMN = "file"
_UNREADABLE = (OSError, BadImageError)
# What the parsers of JSON, settings and weights raise; RuntimeError: weights that do not fit the model.
_BAD_CONTENT = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    OSError,
)


@dataclass(frozen=True)
class BrokenImage:
    """A file that could not be scored, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The scores of a folder's images.

    Attributes:
        table: One row per image, sorted by file: the column ``file_column`` holds its path relative to the folder, and
            one column per class holds its score in 0-1. Bytes of a path that are not UTF-8 are written as codes.
        broken: The files that could not be read as images; they have no row.
        file_column: ``file``, or another name if a class is called ``file``; see :func:`choose_file_column`.
    """

    table: pa.Table
    broken: tuple[BrokenImage, ...]
    file_column: str


def save_model(folder: Path, config: TrainConfig, state: dict[str, Any], scale: PixelScale, card: str) -> None:
    """Write a model folder.

    Args:
        folder: Created if it does not exist.
        config: Settings of the run.
        state: The run's best weights, as returned by :meth:`training.loop.checkpoint.CheckpointStore.load_best`.
        scale: Normalisation of the run's dataset.
        card: The model card, in Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that are not contiguous, which those in channels-last format are not.
    save_file({name: value.contiguous() for name, value in state["model"].items()}, folder / "model.safetensors")
    (folder / "classes.json").write_text(json.dumps(state["classes"]) + "\n", encoding="utf-8")
    described = {
        "config": config.flatten(),
        "epoch": state["epoch"],
        "mean": scale.mean.tolist(),
        "std": scale.std.tolist(),
        "sha256": {name: _hash(folder / name) for name in _HASHED},
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def choose_device(name: DeviceName) -> torch.device:
    """Return the device to score on; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        ValueError: ``cuda`` was requested and torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA GPU here that torch can use. Use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_file_column(classes: Sequence[str]) -> str:
    """Return the name of the column that holds file names: ``file``, or ``image_file`` and so on if that is a class."""
    name = FILE_COLUMN
    while name in classes:
        name = f"image_{name}"
    return name


class Predictor:
    """A loaded model.

    Attributes:
        config: Settings of the run that trained it.
        classes: C names.
        weights: The trained weights, on the CPU.
        device: Where the model computes.
    """

    def __init__(
        self,
        config: TrainConfig,
        classes: Sequence[str],
        weights: dict[str, Tensor],
        scale: PixelScale,
        device: torch.device | None = None,
    ) -> None:
        self.config, self.classes, self._scale = config, tuple(classes), scale
        self.weights = weights
        self.device = device or torch.device("cpu")
        if self.device.type == "cuda":
            # A GPU rounds convolutions to TF32 by default; score in the precision that the model was evaluated in.
            set_arithmetic(config.loop)
        self._model = restore_model(config, {"classes": list(classes), "model": weights}, self.device)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | None = None) -> Predictor:
        """Load a folder that :func:`save_model` wrote.

        Args:
            folder: The model folder.
            device: Where to compute; the CPU by default.

        Raises:
            ValueError: The folder lacks one of the files of a model, or one is damaged.
        """
        folder = Path(folder)
        missing = [
            name for name in ("model.safetensors", "config.json", "classes.json") if not (folder / name).is_file()
        ]
        if missing:
            raise ValueError(
                f"{folder} is not a model folder: it lacks {missing[0]}. A model folder holds model.safetensors, "
                "config.json and classes.json"
            )
        with _reading(folder / "config.json"):
            described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            scale = _read_scale(described)
            config = TrainConfig.from_flat(described["config"])
            hashes = dict(described.get("sha256", {}))  # earlier versions wrote none
        for name in _HASHED:
            if name in hashes and _hash(folder / name) != hashes[name]:
                raise ValueError(_describe_damage(folder / name, "it does not match its hash in config.json"))
        with _reading(folder / "classes.json"):
            classes = _read_classes(json.loads((folder / "classes.json").read_text(encoding="utf-8")))
        with _reading(folder / "model.safetensors"):
            return cls(config, classes, load_file(folder / "model.safetensors"), scale, device)

    @torch.no_grad()
    def logits(self, images: Tensor, batch_size: int = DEFAULT_BATCH_SIZE) -> Tensor:
        """Return logits (N, C), on the CPU, of uint8 images (N, 3, H, W) at the model's image size."""
        parts = [
            self._model(self._scale.normalise(part.to(self.device))).logits.float().cpu()
            for part in images.split(batch_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, len(self.classes))

    def score_images(self, files: Sequence[bytes], batch_size: int = DEFAULT_BATCH_SIZE) -> Tensor:
        """Return scores (N, C) in 0-1, on the CPU, of images in the form of their files' content.

        Raises:
            ValueError: One of them cannot be read; the message says which.
        """
        parts = [torch.zeros(0, len(self.classes))]
        for start in range(0, len(files), batch_size):
            pixels = []
            for number, content in enumerate(files[start : start + batch_size], start):
                try:
                    pixels.append(self._read(content))
                except _UNREADABLE as error:
                    raise ValueError(f"Image {number} cannot be read: {first_line(error)}") from None
            parts.append(self.logits(torch.stack(pixels), batch_size).sigmoid())
        return torch.cat(parts)

    def predict_folder(self, folder: str | Path, batch_size: int = DEFAULT_BATCH_SIZE) -> Predictions:
        """Score every image below a folder.

        Args:
            folder: Searched with its sub-folders.
            batch_size: Images that are read and scored at a time.

        Raises:
            ValueError: The folder does not exist or holds no image.
        """
        folder = Path(folder)
        files = find_images(folder)
        names: list[str] = []
        broken: list[BrokenImage] = []
        # An empty part, so that a folder without a single readable image gives a table too.
        parts = [torch.zeros(0, len(self.classes))]
        # Batch by batch, because a folder of originals need not fit into memory.
        for start in range(0, len(files), batch_size):
            pixels = []
            for path in files[start : start + batch_size]:
                # A table holds only UTF-8, and one odd name must not cost the scores of the others.
                name = utf8_name(path.relative_to(folder))
                try:
                    pixels.append(self._read(path.read_bytes()))
                    names.append(name)
                except _UNREADABLE as error:
                    broken.append(BrokenImage(name, first_line(error)))
            if pixels:
                parts.append(self.logits(torch.stack(pixels), batch_size).sigmoid())
        return self._tabulate(names, torch.cat(parts), broken)

    def _tabulate(self, names: list[str], scores: Tensor, broken: list[BrokenImage]) -> Predictions:
        file_column = choose_file_column(self.classes)
        columns = [pa.array(names, pa.string()), *(pa.array(column.numpy(), pa.float32()) for column in scores.T)]
        return Predictions(pa.table(columns, names=[file_column, *self.classes]), tuple(broken), file_column)

    def _read(self, content: bytes) -> Tensor:
        # The same steps as for a store that a model is trained on: turned upright, 16 bits scaled to 8, resized.
        size = self.config.data.image_size
        return to_pixels(open_upright(content).resize((size, size), Image.Resampling.BILINEAR), flip=False).permute(
            2, 0, 1
        )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_scale(described: dict[str, Any]) -> PixelScale:
    mean, std = (torch.tensor(described[name], dtype=torch.float32) for name in ("mean", "std"))
    if mean.shape != (3,) or std.shape != (3,) or not bool(torch.isfinite(mean / std).all()):
        raise ValueError("mean and std must be three numbers each")
    return PixelScale(mean, std)


def _read_classes(plain: Any) -> list[str]:
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise ValueError("it must be a list of names")
    return plain


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in whatever is raised for its content."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, but no fault of the file
        raise
    except _BAD_CONTENT as error:
        raise ValueError(_describe_damage(path, first_line(error))) from None


def _describe_damage(path: Path, problem: str) -> str:
    return f"{path} is damaged: {problem}. Copy the model's folder again, or promote its sweep again"
