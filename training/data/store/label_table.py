"""Labels of one official phase in a store: a Parquet file with a row per image, left-out images included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.data.parquet import read_parquet
from training.data.sources.annotations import Phase
from training.data.store.images import ImageFacts, scale_boxes, scale_points

_NEGATIVE = "negative/"


@dataclass(frozen=True)
class LabelTable:
    """Labels of one official phase, in the protocol's order.

    Left-out images keep their row: split and draw count all rows, and must not depend on what was left out.

    Attributes:
        ids: N names.
        files: N paths, relative to the source's root.
        facts: Facts about each original; None where the image was left out.
        true: bool (N, C), or None.
        observed: bool (N, C) if the source gave them, else None.
        boxes: For each image int16 (M, 5) of (class, left, top, right, bottom) in px of the store, or None.
        points: For each image float32 (M, 3) of (part, x, y) in px of the store, or None.
        negatives: How labels are known to be negative -> bool (N, C), which.
        recordings: For each image what it is a part of, or None.
    """

    ids: tuple[str, ...]
    files: tuple[str, ...]
    facts: tuple[ImageFacts | None, ...]
    true: NDArray[np.bool_] | None
    observed: NDArray[np.bool_] | None
    boxes: tuple[NDArray[np.int16], ...] | None
    points: tuple[NDArray[np.float32], ...] | None
    negatives: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    recordings: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The images that were not left out, as bool (N,)."""
        return np.array([facts is not None for facts in self.facts], bool)


def make_label_table(phase: Phase, facts: Sequence[ImageFacts | None], image_size: int) -> LabelTable:
    """Combine the labels of a phase with the facts about its images, and scale boxes and points to the store's px."""
    boxes = points = None
    if phase.boxes is not None:
        boxes = tuple(
            np.zeros((0, 5), np.int16) if known is None else scale_boxes(raw.reshape(-1, 5), known, image_size)
            for raw, known in zip(phase.boxes, facts, strict=True)
        )
    if phase.points is not None:
        points = tuple(
            np.zeros((0, 3), np.float32) if known is None else scale_points(raw.reshape(-1, 3), known, image_size)
            for raw, known in zip(phase.points, facts, strict=True)
        )
    return LabelTable(
        phase.ids,
        phase.files,
        tuple(facts),
        phase.true,
        phase.observed,
        boxes,
        points,
        phase.negatives,
        phase.recordings,
    )


def to_parquet(table: LabelTable) -> pa.Buffer:
    """Encode a table as Parquet; labels are packed eight to a byte, the first class in the highest bit."""
    columns: dict[str, Any] = {
        "id": pa.array(table.ids, pa.string()),
        "file": pa.array(table.files, pa.string()),
        "kept": pa.array(table.kept),
        "sha256": pa.array([facts and facts.sha256 for facts in table.facts], pa.string()),
        "width": pa.array([facts and facts.width for facts in table.facts], pa.int32()),
        "height": pa.array([facts and facts.height for facts in table.facts], pa.int32()),
        "orientation": pa.array([facts and facts.orientation for facts in table.facts], pa.int8()),
    }
    for name, matrix in (("true", table.true), ("observed", table.observed)):
        if matrix is not None:
            columns[name] = _pack(matrix)
    columns |= {f"{_NEGATIVE}{kind}": _pack(matrix) for kind, matrix in table.negatives.items()}
    if table.recordings is not None:
        columns["recording"] = pa.array(table.recordings, pa.string())
    if table.boxes is not None:
        columns["boxes"] = pa.array([boxes.ravel() for boxes in table.boxes], pa.list_(pa.int16()))
    if table.points is not None:
        columns["points"] = pa.array([points.ravel() for points in table.points], pa.list_(pa.float32()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(content: bytes, num_classes: int) -> LabelTable:
    """Decode the output of :func:`to_parquet`."""
    table = read_parquet(content)
    columns = set(table.column_names)  # what the source does not give has no column at all
    known = zip(*(table[name].to_pylist() for name in ("sha256", "width", "height", "orientation")), strict=True)
    return LabelTable(
        ids=tuple(table["id"].to_pylist()),
        files=tuple(table["file"].to_pylist()),
        facts=tuple(None if row[0] is None else ImageFacts(*row) for row in known),
        true=_unpack(table["true"], num_classes) if "true" in columns else None,
        observed=_unpack(table["observed"], num_classes) if "observed" in columns else None,
        boxes=_lists(table["boxes"], 5) if "boxes" in columns else None,
        points=_lists(table["points"], 3) if "points" in columns else None,
        negatives={
            name.removeprefix(_NEGATIVE): _unpack(table[name], num_classes)
            for name in table.column_names
            if name.startswith(_NEGATIVE)
        },
        recordings=tuple(table["recording"].to_pylist()) if "recording" in columns else None,
    )


def pad_boxes(boxes: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Pad N arrays (m, 5) with -1 to one array (N, M, 5), where M is the largest m and at least 1."""
    padded = np.full((len(boxes), max((len(some) for some in boxes), default=0) or 1, 5), -1, np.int16)
    for row, some in enumerate(boxes):
        padded[row, : len(some)] = some
    return padded


def compute_data_hash(
    tables: Mapping[str, LabelTable],
    classes: Sequence[str],
    parts: Sequence[str],
    preprocessing: Mapping[str, Any],
    schema_version: int,
) -> str:
    """Return the sha256 of everything about a dataset that a run can see.

    That is: classes, parts, preprocessing, and for each row its id, its original's hash, labels, known negatives,
    boxes, points and recording, and whether it was left out. Encoded pixels are not hashed because they depend on the
    codec's version, nor are names and paths because they differ between machines.
    """
    digest = hashlib.sha256()
    _add_json(digest, [schema_version, list(classes), list(parts), dict(sorted(preprocessing.items()))])
    for name in sorted(tables):
        table = tables[name]
        _add_json(digest, [name, list(table.ids), [facts and facts.sha256 for facts in table.facts]])
        for matrix in (table.true, table.observed):
            _add_bytes(digest, b"" if matrix is None else np.packbits(matrix, axis=1).tobytes())
        for lists, kind in ((table.boxes, "<i2"), (table.points, "<f4")):
            _add_json(digest, None if lists is None else [len(some) for some in lists])
            # With an explicit byte order: the hash must be the same on any machine.
            _add_bytes(digest, b"".join(some.astype(kind).tobytes() for some in lists or ()))
        # Only where there are any, so that the hashes of stores without them stay what they were.
        for kind, matrix in sorted(table.negatives.items()):
            _add_json(digest, kind)
            _add_bytes(digest, np.packbits(matrix, axis=1).tobytes())
        if table.recordings is not None:
            _add_json(digest, list(table.recordings))
    return digest.hexdigest()


def _add_json(digest: Any, value: Any) -> None:
    _add_bytes(digest, json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode())


def _add_bytes(digest: Any, content: bytes) -> None:
    # The length first: otherwise ("ab", "c") and ("a", "bc") would have the same hash.
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def _pack(matrix: NDArray[np.bool_]) -> pa.Array:
    # Fixed-size values have no offsets, so the packed matrix is the column's buffer as it is.
    packed = np.packbits(matrix, axis=1)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(packed.shape[1]), len(packed), [None, pa.py_buffer(packed.tobytes())]
    )


def _unpack(column: pa.ChunkedArray, num_classes: int) -> NDArray[np.bool_]:
    # The bytes that C bits take, rounded up.
    packed = np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), -(-num_classes // 8))
    return np.unpackbits(packed, axis=1, count=num_classes).astype(bool)


def _lists(column: pa.ChunkedArray, width: int) -> tuple[NDArray[Any], ...]:
    array = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return tuple(values[low:high].reshape(-1, width) for low, high in pairwise(offsets))
