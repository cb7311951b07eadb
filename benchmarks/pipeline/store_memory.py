"""Measure the memory of a process that reads a whole store, compared with the store's size. Linux only (/proc).

The store is synthetic: one small image under as many ids as the dataset has rows. Memory must not grow with the images;
labels take about 1 KiB per row.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from training.data.loaders import StoreBatches
from training.data.sources.annotations import Annotations, Phase
from training.data.store.images import Encoding
from training.data.store.reader import open_store
from training.data.store.writer import write_store
from training.data.views import IMAGENET_SCALE

COCO_ROWS = 82_081
EPOCH_BATCH = 16
_NUM_CLASSES = 80
_READER = """
import sys
from pathlib import Path
import torch
from training.data.store.reader import open_store

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

images = [open_store(sys.argv[1]).split(name, 1200, 1200).images for name in ("train", "val")]
for split in images:
    split.read(range(min(len(split), 600)))
opened = mib("VmRSS")
for split in images:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    for rows in order.split(64):
        split.read(rows.tolist())
print(opened, mib("VmRSS"), mib("VmHWM"))
"""


@dataclass(frozen=True)
class Memory:
    """Cost of reading a whole store.

    Attributes:
        rows: Images in the store.
        store_mib: Size of the store.
        prepare_s: Time it took to write.
        read_s: Time it took to read every image once in random order, including the start of Python and torch.
        before_mib: Resident memory once labels and some images were read.
        after_mib: Resident memory after every image.
        peak_mib: Its peak.
    """

    rows: int
    store_mib: float
    prepare_s: float
    read_s: float
    before_mib: float
    after_mib: float
    peak_mib: float


def measure_memory(folder: Path, rows: int = COCO_ROWS, image_size: int = 32, encoding: Encoding = "jpeg") -> Memory:
    """Write a synthetic store under ``folder`` and read all of it in another process."""
    start = time.perf_counter()
    manifest = write_store(
        synthetic_source(folder / "source", rows), str(folder / "store"), image_size=image_size, encoding=encoding
    )
    prepare_s, start = time.perf_counter() - start, time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(folder / "store")], capture_output=True, text=True, check=True
    )
    before, after, peak = map(float, done.stdout.split())
    return Memory(rows, manifest.num_bytes / 2**20, prepare_s, time.perf_counter() - start, before, after, peak)


def measure_epoch_memory(folder: Path, rows: int = COCO_ROWS) -> list[tuple[int, float, float]]:
    """Run an epoch over a store with COCO's number of rows and two workers.

    Returns:
        (images done, MiB of this process, MiB that only the workers hold; they share the rest with this process).
    """
    write_store(synthetic_source(folder / "source", rows), str(folder / "store"), image_size=32, encoding="raw")
    data = open_store(str(folder / "store")).split("train", 1200, 1200)
    process, found = psutil.Process(), []
    batches = StoreBatches(data, IMAGENET_SCALE, EPOCH_BATCH, 0, strong=True, num_workers=2)
    at = set(np.linspace(len(batches) // 10, len(batches) - 8, 6).astype(int).tolist())
    with closing(batches.epoch(1)) as epoch:
        for step, _ in enumerate(epoch):
            if step in at:
                workers = sum(child.memory_full_info().uss for child in process.children(recursive=True))
                found.append((step * EPOCH_BATCH, process.memory_info().rss / 2**20, workers / 2**20))
    return found


def synthetic_source(folder: Path, rows: int) -> Annotations:
    """Return ``rows`` images that are all one small picture, with about three labels and boxes each, as in COCO."""
    stream = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stream.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / "picture.jpg")
    true = stream.random((rows, _NUM_CLASSES)) < 3 / _NUM_CLASSES
    true[:, 0] |= ~true.any(1)
    boxes = tuple(np.array([[k, 2, 2, 20, 18] for k in np.nonzero(row)[0]], np.float32) for row in true)
    phase = Phase(tuple(f"{row:012d}" for row in range(rows)), ("picture.jpg",) * rows, true, boxes=boxes)
    return Annotations(
        "synthetic", "one picture under many ids", folder, tuple(map(str, range(_NUM_CLASSES))), {"train": phase}, {}
    )
