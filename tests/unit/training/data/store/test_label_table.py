"""Test that the labels of a store are read on the calling thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.stores import make_store

_READ = """
import os, sys
from training.data.store.label_table import from_parquet
before = set(os.listdir("/proc/self/task"))
from_parquet(open(sys.argv[1], "rb").read(), 4)
print(len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to ask for threads")
def test_reading_labels_starts_no_thread_that_could_abort_the_process_at_its_end(tmp_path: Path) -> None:
    labels = Path(make_store(tmp_path)) / "train-labels.parquet"
    done = subprocess.run([sys.executable, "-c", _READ, str(labels)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
