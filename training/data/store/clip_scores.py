"""Scores of a store's images for its classes, as CLIP gives them: a Parquet file for each phase, next to the store.

They are computed once (``orchestrator data score``), and methods with pseudo-labels from CLIP read them. No manifest
lists them: a store is complete without them, and ``data prepare`` leaves them alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.parquet import read_parquet
from training.data.store.storage import Storage
from training.errors import StoreError

_VERSION = "1"
_ID, _COLUMNS = "id", ("whole", "tile_max", "tile_min")


@dataclass(frozen=True, eq=False)
class ClipScores:
    """Scores of N images for C classes: a softmax over the classes of the cosine between image and class name.

    Attributes:
        whole: float32 (N, C) in 0-1, of the whole image.
        tile_max, tile_min: float32 (N, C), the highest and the lowest score among the tiles of an image.
    """

    whole: Tensor
    tile_max: Tensor
    tile_min: Tensor

    def __len__(self) -> int:
        return len(self.whole)

    def to(self, device: torch.device) -> ClipScores:
        """Return the scores on a device."""
        return ClipScores(*(matrix.to(device) for matrix in self._matrices))

    def rows(self, rows: NDArray[np.int64]) -> ClipScores:
        """Return the scores of some images, in the order given."""
        index = torch.from_numpy(rows)
        return ClipScores(*(matrix[index] for matrix in self._matrices))

    @classmethod
    def join(cls, parts: Sequence[ClipScores]) -> ClipScores:
        """Return the scores of several sets of images as one."""
        return cls(*(torch.cat(matrices) for matrices in zip(*(part._matrices for part in parts), strict=True)))

    @property
    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.whole, self.tile_max, self.tile_min


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """The content of a file of scores.

    Attributes:
        ids: N names of the images.
        scores: Theirs.
        about: How they were made: ``model``, ``weights_hash``, ``prompt``, ``class_names`` (JSON), ``temperature``,
            ``tiles``, and ``data_hash`` of the store.
    """

    ids: tuple[str, ...]
    scores: ClipScores
    about: Mapping[str, str]

    def encode(self) -> bytes:
        """Return the Parquet file: a row per image with ``id``, ``whole``, ``tile_max`` and ``tile_min``."""
        columns: dict[str, Any] = {_ID: pa.array(self.ids, pa.string())}
        for name, matrix in zip(_COLUMNS, self.scores._matrices, strict=True):
            flat = pa.array(np.ascontiguousarray(matrix.numpy()).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
        table = pa.table(columns).replace_schema_metadata({"version": _VERSION, **self.about})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def decode(cls, content: bytes) -> ScoreFile:
        """Read what :meth:`encode` returned.

        Raises:
            ValueError: It is something else.
        """
        table = read_parquet(content)  # its errors are ValueErrors
        about = _about(table.schema)
        if table.column_names != [_ID, *_COLUMNS]:
            raise ValueError(f"its columns are {', '.join(table.column_names)}")
        matrices = [_matrix(table[name]) for name in _COLUMNS]
        return cls(tuple(table[_ID].to_pylist()), ClipScores(*matrices), about)


def scores_name(model: str, phase: str) -> str:
    """Return the name of a file of scores.

    Args:
        model: Such as ``clip/ViT-B-16``, which means ``clip/ViT-B-16/openai``.
        phase: Official phase, ``train`` or ``val``.
    """
    return f"scores-{model.removesuffix('/openai').replace('/', '-')}-{phase}.parquet"


def score_command(name: str, model: str) -> str:
    """Return the command that makes the scores of a dataset."""
    return f"orchestrator data score {name} --model {model}"


def read_about(storage: Storage, file: str) -> dict[str, str] | None:
    """Return how a file of scores was made, without reading the scores; None if there is no such file.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with storage.open(file) as source:
            return _about(pq.ParquetFile(source, pre_buffer=False).schema_arrow)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot read {storage.uri}/{file}: {error}") from error


def read_scores(uri: str, name: str, model: str, phase: str, data_hash: str) -> tuple[ScoreFile, str]:
    """Return the scores of a phase of a store, and the sha256 of their file.

    Args:
        uri: The store.
        name: Name of the dataset, for messages.
        model: Such as ``clip/ViT-B-16``.
        phase: Official phase.
        data_hash: That of the store.

    Raises:
        StoreError: There are none, they are of other data, or they cannot be read.
    """
    file = scores_name(model, phase)
    again = f"Score them again: {score_command(name, model)} --replace"
    try:
        content = Storage(uri).read(file)
        found = ScoreFile.decode(content)
    except FileNotFoundError:
        raise StoreError(
            f"No scores of {model} next to the store {uri}. Make them: {score_command(name, model)}"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot read {uri}/{file}: {error}. {again}") from error
    if found.about.get("data_hash") != data_hash:
        raise StoreError(f"The scores in {uri}/{file} are of other data than the store's. {again}")
    return found, hashlib.sha256(content).hexdigest()


def _about(schema: pa.Schema) -> dict[str, str]:
    about = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    about.pop("ARROW:schema", None)
    if about.pop("version", None) != _VERSION:
        raise ValueError("it is not a file of scores, or of another version")
    return about


def _matrix(column: pa.ChunkedArray) -> Tensor:
    rows = column.combine_chunks()
    flat: NDArray[np.float32] = rows.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(rows), rows.type.list_size).copy())
