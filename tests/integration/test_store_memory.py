"""Test that reading a store takes no more memory when the store is larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pipeline.store_memory import measure_memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to ask for resident memory")
def test_memory_does_not_grow_with_what_was_read(tmp_path: Path) -> None:
    memory = measure_memory(tmp_path, rows=3000, image_size=160, encoding="raw")
    assert memory.store_mib > 200
    assert memory.after_mib - memory.before_mib < memory.store_mib / 3  # the allocator keeps some 30 MiB
