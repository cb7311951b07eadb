"""Read Parquet without Arrow's threads."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(content: bytes) -> pa.Table:
    """Decode a Parquet file on the calling thread."""
    # pq.read_table hands Python's bytes to Arrow's threads. If one of them releases the bytes while the interpreter
    # exits, as after the short `data` verbs, the process aborts (apache/arrow#34314).
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
