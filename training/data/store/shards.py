"""Write shards of encoded images as Arrow IPC files, and read single rows without holding a shard in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.errors import StoreError

_COLUMN = "image"
_OPEN_FILES = 256
"""Maximum number of shards that a process keeps open, far below the usual limit of 1,024 files."""


@dataclass(frozen=True)
class ShardFile:
    """A shard on a local disk.

    Attributes:
        path: The file.
        sha256: Its hash in the manifest; a store that was prepared again has other shards under the same names.
        num_images: Number of images in it.
    """

    path: Path
    sha256: str
    num_images: int


def encode_shard(images: Sequence[bytes]) -> pa.Buffer:
    """Return the content of a shard: an Arrow IPC file with one record batch of one binary column."""
    # "large": 64-bit offsets, which _offsets reads. Those of plain binary end at 2 GiB, which a shard of originals may
    # exceed.
    batch = pa.record_batch([pa.array(images, pa.large_binary())], names=[_COLUMN])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_row(shard: ShardFile, position: int) -> bytes:
    """Read one image of a shard.

    The bytes are read with pread at the offsets in the Arrow file's index, not through a memory map: mapped pages count
    as the process's memory until the kernel reclaims them, and Ray's memory monitor would mistake them for a leak.

    Raises:
        StoreError: The shard is missing or damaged.
    """
    offsets = _offsets(shard)
    start, size = int(offsets[position]), int(offsets[position + 1] - offsets[position])
    file = _open(shard)
    content = os.pread(file.descriptor, size, start)
    if len(content) != size:
        raise _damaged(shard.path, "it is cut short")
    return content


# Without a limit, unlike the open files: this is 8 bytes per image.
@cache
def _offsets(shard: ShardFile) -> NDArray[np.int64]:
    """Return the file offsets at which each image starts and the last one ends, int64 (n + 1,)."""
    try:
        with pa.memory_map(str(shard.path)) as source:
            column = pa.ipc.open_file(source).get_batch(0).column(_COLUMN)
            _, ends, values = column.buffers()
            # Offsets in the column count from its buffer. Two addresses in the map give its place in the file.
            source.seek(0)
            begin = values.address - source.read_buffer(1).address if values is not None and values.size else 0
            offsets = np.frombuffer(ends, np.int64)[: len(column) + 1] + begin
    except (OSError, pa.ArrowInvalid, IndexError) as error:
        raise _damaged(shard.path, str(error)) from None
    if len(offsets) != shard.num_images + 1:
        raise _damaged(shard.path, f"it holds {len(offsets) - 1} images instead of {shard.num_images}")
    return offsets


class _OpenFile:
    """A descriptor that is closed with its last reference: one thread may still read what another evicts."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)


@lru_cache(maxsize=_OPEN_FILES)
def _open(shard: ShardFile) -> _OpenFile:
    try:
        return _OpenFile(shard.path)
    except OSError as error:
        raise _damaged(shard.path, str(error)) from None


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The store is damaged: {path} cannot be used: {why}. Delete the store or the copy of it in {path.parent}, and "
        f"prepare it again"
    )
