"""Measure the CPU time of a training image, from its file to the weak and strong views of a batch at 448 px.

    python -m benchmarks.pipeline [--images 192] [--repeats 7]

Rows: the straightforward loader that the released code of IGNORE describes; images resized beforehand to 448 px JPEG,
with the same augmentations by torchvision v2 on uint8 tensors; the same on PIL images; ours, from both encodings of a
store. All use one thread, batches of 16 and files in the page cache: this measures CPU time, and the cost on a disk
follows from the bytes per image. Repeats are interleaved and count CPU time, not wall time, so a busy machine disturbs
little. Results go to ``results/input_pipeline.md``.

The photos are three of VOC 2012 if ``../shared/data`` next to the repository has them, else the two of scikit-learn.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from benchmarks.pipeline.store_memory import COCO_ROWS, measure_epoch_memory
from training.data.loaders import StoreBatches
from training.data.sources.annotations import Annotations, Phase
from training.data.split import SplitData
from training.data.store.images import ENCODINGS, JPEG_QUALITY, Encoding
from training.data.store.reader import open_store
from training.data.store.writer import write_store
from training.data.transforms import MAGNITUDE, NUM_BINS, NUM_OPS, OPS, Op, augment
from training.data.views import IMAGENET_SCALE

RESULTS = Path(__file__).parents[1] / "results" / "input_pipeline.md"
SIZE = 448
BATCH = 16
COCO_IMAGES = 122_218
_OP_TIMES = 8
_MEAN, _STD = IMAGENET_SCALE.mean.tolist(), IMAGENET_SCALE.std.tolist()

STRAIGHT = "straightforward loader, as the released code"
TENSORS = "448 px JPEG, torchvision v2 on uint8 tensors"
PICTURES = "448 px JPEG, torchvision v2 on PIL images"
AIMS = {STRAIGHT: 5.0, TENSORS: 2.0}


def ours(encoding: str, normalised: bool) -> str:
    """Return the name of one of our rows."""
    return f"ours, {encoding} store, {'normalised on the CPU' if normalised else 'uint8 for a GPU to normalise'}"


def find_photos(folder: Path) -> tuple[list[Path], str]:
    """Return the paths of the photos and a description; scikit-learn's are copied into ``folder``."""
    found = sorted((Path(__file__).parents[3] / "shared" / "data").glob("voc2012_mini/VOCdevkit/*/JPEGImages/*.jpg"))
    if found:
        return found, f"the {len(found)} photos of VOC 2012 at hand"
    for name in ("china.jpg", "flower.jpg"):
        (folder / name).write_bytes((resources.files("sklearn.datasets.images") / name).read_bytes())
    return sorted(folder.glob("*.jpg")), "the two photos of scikit-learn, because VOC's are not at hand"


class StraightforwardImages(Dataset[tuple[Tensor, Tensor]]):
    """Row -> both views, all from the file: open, three ``convert``, two resizes, two conversions to float."""

    def __init__(self, files: Sequence[Path], num: int) -> None:
        self._files, self._num = files, num
        chain = [v1.Resize((SIZE, SIZE)), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(_MEAN, _STD)]
        self._weak, self._strong = v1.Compose(chain), v1.Compose([v1.RandAugment(NUM_OPS, MAGNITUDE), *chain])

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[row % len(self._files)]) as file:
            image = file.convert("RGB")
        return self._weak(image.convert("RGB")), self._strong(image.convert("RGB"))


class ResizedImages(Dataset[tuple[Tensor, Tensor]]):
    """Row -> both views by torchvision v2, of a JPEG that was resized beforehand."""

    def __init__(self, files: Sequence[Path], num: int, tensors: bool) -> None:
        self._files, self._num, self._tensors = files, num, tensors
        chain = [
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
        ]
        self._weak, self._strong = v2.Compose(chain), v2.Compose([v2.RandAugment(NUM_OPS, MAGNITUDE), *chain])

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[row % len(self._files)]) as file:
            image: Any = file.convert("RGB")
        if self._tensors:  # torchvision's own decoder is a little faster, but deprecated
            image = v2.functional.pil_to_tensor(image)
        return self._weak(image), self._strong(image)


def load_all(dataset: Dataset[Any], num_workers: int) -> None:
    """Read a dataset once in batches through a DataLoader."""
    for _ in DataLoader(dataset, BATCH, num_workers=num_workers):
        pass


def load_ours(data: SplitData, normalised: bool, num_workers: int) -> None:
    """Read an epoch of a store, ``normalised`` or as the bytes that would go to a GPU."""
    # A meta tensor takes no memory and no time: that leaves the CPU's work when a GPU normalises.
    device = torch.device("cpu" if normalised else "meta")
    with closing(
        StoreBatches(data, IMAGENET_SCALE, BATCH, 0, strong=True, num_workers=num_workers, device=device).epoch(1)
    ) as batches:
        for _ in batches:
            pass


def cpu_s() -> float:
    """Return CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def time_cpu(do: Callable[[], object]) -> float:
    """Return the CPU seconds that ``do`` takes."""
    gc.collect()
    before = cpu_s()
    do()
    return cpu_s() - before


def interleave(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time each action in turn, ``repeats`` times, after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            seconds = time_cpu(action)
            if turn > 0:
                taken[name].append(seconds)
    return taken


@dataclass(frozen=True)
class Prepared:
    """A store that was written for the benchmark.

    Attributes:
        data: Its images.
        gb: Gigabytes per 1,000 images.
        cpu_ms: CPU milliseconds that preparing took per image.
    """

    data: SplitData
    gb: float
    cpu_ms: float


def prepare_store(files: Sequence[Path], num: int, folder: Path, encoding: Encoding) -> Prepared:
    """Write a store that holds each photo under many ids."""
    names = tuple(str(files[row % len(files)].name) for row in range(num))
    true = np.zeros((num, 2), np.bool_)
    true[np.arange(num), np.arange(num) % 2] = True
    phase = Phase(tuple(f"{row:06d}" for row in range(num)), names, true)
    source = Annotations("photos", "photos under many ids", files[0].parent, ("even", "odd"), {"test": phase}, {})
    uri = str(folder / encoding)
    seconds = time_cpu(lambda: write_store(source, uri, image_size=SIZE, encoding=encoding, workers=1))
    store = open_store(uri)
    return Prepared(store.test_split(0), store.manifest.num_bytes / 1e9 / num * 1000, seconds / num * 1e3)


def write_resized(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write each photo as a JPEG at 448 px."""
    folder.mkdir()
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(
                folder / file.name, quality=JPEG_QUALITY
            )
    return sorted(folder.iterdir())


def time_ops(photo: Path, repeats: int) -> dict[str, tuple[float, float, float]]:
    """Return for each operation of RandAugment its CPU ms at 448 px: ours, torchvision v2 on PIL, and on tensors."""
    with Image.open(photo) as file:
        image = file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    tensor = v2.functional.pil_to_tensor(image)
    found = {}
    for name in OPS:
        apply = _v2_operation(name)
        actions: dict[str, Callable[[], object]] = {
            "ours": partial(_repeat, partial(augment, image, (Op(name),))),
            "pil": partial(_repeat, partial(apply, image)),
            "tensor": partial(_repeat, partial(apply, tensor)),
        }
        taken = interleave(actions, repeats)
        ours_ms, pil_ms, tensor_ms = (1e3 * statistics.median(seconds) / _OP_TIMES for seconds in taken.values())
        found[name] = (ours_ms, pil_ms, tensor_ms)
    return found


def _v2_operation(name: str) -> Callable[[Any], object]:
    policy = v2.RandAugment(NUM_OPS, MAGNITUDE)
    magnitudes = policy._AUGMENTATION_SPACE[name][0](NUM_BINS, SIZE, SIZE)
    magnitude = 0.0 if magnitudes is None else float(magnitudes[MAGNITUDE])
    return lambda image: policy._apply_image_or_video_transform(
        image, name, magnitude, policy.interpolation, policy._fill
    )


def _repeat(do: Callable[[], object]) -> None:
    for _ in range(_OP_TIMES):
        do()


@dataclass(frozen=True)
class Report:
    """All results.

    Attributes:
        photos: Description of the photos.
        here, with_worker: Row -> CPU ms per image of each repeat, in one process and with one worker process.
        stores: Encoding -> its store.
        original_gb: Gigabytes per 1,000 of the originals.
        ops: Operation -> CPU ms of ours, torchvision on PIL, torchvision on tensors.
        memory: See :func:`benchmarks.pipeline.store_memory.measure_epoch_memory`.
        load: Load average at the start.
    """

    photos: str
    here: dict[str, list[float]]
    with_worker: dict[str, list[float]]
    stores: dict[Encoding, Prepared]
    original_gb: float
    ops: dict[str, tuple[float, float, float]]
    memory: list[tuple[int, float, float]]
    load: float


def render_report(report: Report) -> str:
    """Return the results as Markdown."""
    return (
        "\n\n".join(
            [_head(report), _pipelines(report), _aims(report), _encodings(report), _operations(report), _memory(report)]
        )
        + "\n"
    )


def _head(report: Report) -> str:
    repeats = len(next(iter(report.here.values())))
    return (
        f"# Input pipeline\n\nCPU time from file to the weak and strong views of a batch of {BATCH} at {SIZE} px, on "
        f"{report.photos}, each under many ids;\nfiles in the page cache, one thread. {os.cpu_count()} cores, Linux "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, Pillow "
        f"{PIL.__version__}.\nLoad average at the start {report.load:.1f}. Median of {repeats} interleaved repeats "
        "(lowest - highest); an image is a training example with both its views.\n\nThe first three rows end in "
        "normalised floats, as those loaders do. Ours hands uint8 to the device, which normalises: with a\nGPU the "
        "rows `uint8` hold; on a CPU alone the rows `normalised` do, and there the aims are judged too. Most of the "
        f"difference\nis new memory for the floats, {2 * BATCH * 3 * SIZE**2 * 4 / 1e6:.0f} MB a batch."
    )


def _pipelines(report: Report) -> str:
    lines = [
        "| | CPU ms per image | images/s per core | with one worker process: CPU ms per image, both processes |",
        "|---|---|---|---|",
    ]
    for name, taken in report.here.items():
        middle, behind = statistics.median(taken), statistics.median(report.with_worker[name])
        lines.append(
            f"| {name} | {middle:.2f} ({min(taken):.2f} - {max(taken):.2f}) | {1e3 / middle:.0f} | {behind:.2f} |"
        )
    return "\n".join(lines)


def _aims(report: Report) -> str:
    """Compare repeat with repeat, since a disturbance of one also disturbs its neighbours."""
    baselines = (STRAIGHT, TENSORS, PICTURES)
    lines = [
        f"| times as many images per core-second as | {' | '.join(baselines)} |",
        f"|---|{'---|' * len(baselines)}",
    ]
    for name in (name for name in report.here if name.startswith("ours")):
        cells = [_cell(_ratio(report.here, base, name), AIMS.get(base)) for base in baselines]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        cells = [_cell(_ratio(report.with_worker, base, name), AIMS.get(base)) for base in baselines]
        lines.append(f"| the same with one worker each | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(taken: dict[str, list[float]], base: str, name: str) -> float:
    return statistics.median(slow / quick for slow, quick in zip(taken[base], taken[name], strict=True))


def _cell(ratio: float, aim: float | None) -> str:
    verdict = "" if aim is None else f" (aim {aim:.0f}: {'met' if ratio >= aim else 'missed'})"
    return f"{ratio:.1f}{verdict}"


def _encodings(report: Report) -> str:
    lines = [
        f"| store | GB per 1,000 images | COCO's {COCO_IMAGES:,} images, GB | preparing: CPU ms per image | images/s "
        f"per core |",
        "|---|---|---|---|---|",
    ]
    for encoding, store in report.stores.items():
        whole = store.gb * COCO_IMAGES / 1000
        lines.append(f"| {encoding} | {store.gb:.3f} | {whole:.0f} | {store.cpu_ms:.1f} | {1e3 / store.cpu_ms:.0f} |")
    return "\n".join(
        [*lines, f"| (the originals) | {report.original_gb:.3f} | {report.original_gb * COCO_IMAGES / 1000:.0f} | | |"]
    )


def _operations(report: Report) -> str:
    lines = [
        "| operation at 448 px, CPU ms | ours | torchvision v2 on PIL | torchvision v2 on uint8 tensors |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {mine:.2f} | {pil:.2f} | {tensor:.2f} |" for name, (mine, pil, tensor) in report.ops.items()]
    means = (statistics.mean(column) for column in zip(*report.ops.values(), strict=True))
    return "\n".join([*lines, f"| mean | {' | '.join(f'{mean:.2f}' for mean in means)} |"])


def _memory(report: Report) -> str:
    lines = [
        f"Memory over an epoch of a store with COCO's {COCO_ROWS:,} rows (tiny images), two workers:",
        "",
        "| images done | this process, MiB | both workers' own, MiB |",
        "|---|---|---|",
    ]
    return "\n".join(lines + [f"| {done:,} | {mine:.0f} | {workers:.0f} |" for done, mine, workers in report.memory])


def measure(num_images: int, repeats: int, folder: Path, memory_rows: int = COCO_ROWS) -> Report:
    """Measure everything, writing below ``folder``."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    files, photos = find_photos(folder)
    resized = write_resized(files, folder / "resized")
    stores = {encoding: prepare_store(files, num_images, folder, encoding) for encoding in ENCODINGS}
    rows: dict[str, Callable[[int], None]] = {
        STRAIGHT: partial(load_all, StraightforwardImages(files, num_images)),
        TENSORS: partial(load_all, ResizedImages(resized, num_images, tensors=True)),
        PICTURES: partial(load_all, ResizedImages(resized, num_images, tensors=False)),
    }
    for encoding, normalised in itertools.product(ENCODINGS, (True, False)):
        rows[ours(encoding, normalised)] = partial(load_ours, stores[encoding].data, normalised)
    both = [interleave({name: partial(row, workers) for name, row in rows.items()}, repeats) for workers in (0, 1)]
    here, with_worker = (
        {name: [each / num_images * 1e3 for each in taken] for name, taken in one.items()} for one in both
    )
    original = statistics.mean(len(file.read_bytes()) for file in files) / 1e6
    memory = measure_epoch_memory(folder / "memory", memory_rows)
    return Report(photos, here, with_worker, stores, original, time_ops(files[0], repeats), memory, load)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = render_report(measure(arguments.images, arguments.repeats, Path(folder)))
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
