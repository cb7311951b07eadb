"""Keep the scores of a split image by image, so that every metric can be computed from them again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.parquet import read_parquet
from training.data.split import SplitData
from training.files import write_whole
from training.metrics import DEFAULT_THRESHOLD, AbsentClasses, compute_metrics

ID_COLUMN = "id"
_LOGIT, _TRUE, _OBSERVED = "logit", "true", "observed"


@dataclass(frozen=True, eq=False)
class Scores:
    """The logits and labels of a split.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        ids: N names of the images.
        classes: C names.
        logits: float32 (N, C).
        true: bool (N, C), or None if unknown.
        observed: bool (N, C).
        about: What the file says about itself: the run, its epoch, the hash of the data.
    """

    split: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    logits: Tensor
    true: Tensor | None
    observed: Tensor
    about: Mapping[str, str]

    @classmethod
    def of(cls, data: SplitData, logits: Tensor) -> Scores:
        """Return the logits (N, C) of a split, in its order, with its labels."""
        return cls(data.name, data.ids, data.classes, logits.float().cpu(), data.true, data.observed, {})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels_hash(self) -> str:
        """The sha256 of the names and labels, see :func:`hash_labels`."""
        return hash_labels(self.split, self.classes, self.ids, self.observed if self.true is None else self.true)

    def metrics(self, threshold: float = DEFAULT_THRESHOLD, absent_classes: AbsentClasses = "zero") -> dict[str, float]:
        """Compute every metric in percent; none without images, where each would be 0, which looks like a result."""
        if not len(self):
            return {}
        return compute_metrics(self.split, self.logits, self.true, self.observed, threshold, absent_classes)

    def write(self, path: Path, about: Mapping[str, str]) -> str:
        """Write a Parquet file; return its sha256.

        It has a row per image: ``id``, and per class ``logit/<class>`` (float32), ``observed/<class>`` and, if known,
        ``true/<class>`` (bool).
        """
        columns: dict[str, pa.Array] = {ID_COLUMN: pa.array(self.ids, pa.string())}
        for name, values in ((_LOGIT, self.logits), (_TRUE, self.true), (_OBSERVED, self.observed)):
            for number, label in enumerate(self.classes):
                if values is not None:
                    columns[f"{name}/{label}"] = pa.array(np.ascontiguousarray(values[:, number].numpy()))
        table = pa.table(columns).replace_schema_metadata({"split": self.split, **about})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read what :meth:`write` wrote.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not such a file.
        """
        table = read_parquet(path.read_bytes())
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        about.pop("ARROW:schema", None)
        split = about.pop("split", "")
        classes = tuple(name.removeprefix(f"{_LOGIT}/") for name in table.column_names if name.startswith(f"{_LOGIT}/"))
        if not split or not classes or ID_COLUMN not in table.column_names:
            raise ValueError(f"{path} is not a file of scores")

        def columns(name: str) -> Tensor | None:
            if f"{name}/{classes[0]}" not in table.column_names:
                return None
            found: list[NDArray[np.generic]] = [table[f"{name}/{label}"].to_numpy() for label in classes]
            return torch.from_numpy(np.stack(found, 1))

        logits, observed = columns(_LOGIT), columns(_OBSERVED)
        if logits is None or observed is None:
            raise ValueError(f"{path} is not a file of scores: it has no observed labels")
        return cls(split, tuple(table[ID_COLUMN].to_pylist()), classes, logits, columns(_TRUE), observed, about)


def hash_labels(split: str, classes: Sequence[str], ids: Sequence[str], labels: Tensor) -> str:
    """Return the sha256 of the names and labels of a split, whatever size its images have.

    Args:
        split: Its name.
        classes: C names.
        ids: N names of images.
        labels: bool (N, C), the true ones if there are any: each draw has other observed ones.
    """
    digest = hashlib.sha256("\n".join((split, *classes, "", *ids)).encode())
    digest.update(np.packbits(labels.numpy(), axis=1).tobytes())
    return digest.hexdigest()
