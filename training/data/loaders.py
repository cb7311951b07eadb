"""Load batches of a store through torch's DataLoader, and choose between that and batches made in memory.

Workers hand over uint8 with channels last, through shared memory: that is a quarter of the bytes of floats, nothing
is transposed or copied in between, and the device normalises. Order, flips and operations depend only on (seed, epoch,
row), so the number of workers, the batch size and the ranks never change what an image becomes, and an epoch can be
entered at any step.

Worker processes live for one pass over a split: nothing is left behind when a run ends, fails or is abandoned half-way,
and forking them again costs milliseconds.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config.run import TrainConfig
from training.data.batches import Batch, TrainBatches, count_batches, eval_batches
from training.data.dataset_names import prepare_command
from training.data.split import Images, InMemoryImages, OriginalImages, SplitData
from training.data.transforms import View, ViewDraw, augment, draw_view, to_pixels
from training.data.views import PixelScale
from training.distributed import rank, world_size
from training.errors import ConfigError
from training.machine import usable_cpus
from training.seeding import named_generator

EVAL_BATCH = 32
_BATCHES_AHEAD = 2

_ReaderT = TypeVar("_ReaderT", bound="_Reader")


class Batches(Protocol):
    """Batches of a train split."""

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """Yield this rank's part of every global batch of an epoch, without the first ``first_step`` batches."""
        ...


def make_train_batches(
    data: SplitData, scale: PixelScale, config: TrainConfig, strong: bool, device: torch.device
) -> Batches:
    """Return the batches that a run trains on.

    Args:
        data: The train split.
        scale: Normalisation.
        config: The run's settings.
        strong: Whether batches carry the strong view.
        device: Device on which batches of a store are normalised and yielded; batches made in memory stay on the CPU.

    Raises:
        ConfigError: ``data.augment_order=original`` without originals.
    """
    originals = config.data.augment_order == "original"
    if originals and not isinstance(data.images, OriginalImages):
        raise ConfigError(
            f"data.augment_order=original needs the original images, but {config.data.name} was prepared without them. "
            f"Prepare it again into another folder: {prepare_command(config.data.name)} --keep-originals --out URI",
            "data.augment_order",
        )
    batch_size, seed, drop_last = config.optim.batch_size, config.loop.seed, config.optim.drop_last
    if isinstance(data.images, InMemoryImages):
        strength = config.data.strong_view_strength if strong else None
        return TrainBatches(data, scale, batch_size, seed, strength, drop_last=drop_last)
    return StoreBatches(
        data,
        scale,
        batch_size,
        seed,
        strong=strong,
        originals=originals,
        num_workers=config.data.num_workers,
        device=device,
        drop_last=drop_last,
        flip=config.data.horizontal_flip,
    )


class StoreBatches:
    """Iterates a split of a store for training, in a new order each epoch.

    Args:
        data: The split.
        scale: Normalisation.
        batch_size: The global batch, over all ranks.
        seed: Training seed.
        strong: Whether to make the strong view too, from the same decoded image.
        originals: Make both views from the original, with RandAugment before the resize, as in the released code; else
            from the resized image.
        num_workers: Processes that make views; 0 makes them in this process.
        device: Device on which batches are normalised and yielded.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others.
        flip: Mirror half of the views; which ones does not depend on it.
    """

    def __init__(
        self,
        data: SplitData,
        scale: PixelScale,
        batch_size: int,
        seed: int,
        *,
        strong: bool,
        originals: bool = False,
        num_workers: int = 0,
        device: torch.device | None = None,
        drop_last: bool = False,
        flip: bool = True,
    ) -> None:
        self._num_batches = count_batches(len(data), batch_size, drop_last=drop_last)
        self._data, self._scale, self._batch_size, self._seed = data, scale, batch_size, seed
        self._strong, self._originals, self._num_workers, self._flip = strong, originals, num_workers, flip
        self._device = device or torch.device("cpu")

    def __len__(self) -> int:
        return self._num_batches

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """Yield this rank's part of every global batch; the last batch may be smaller, and its part may be empty.

        Close the iterator if you leave it before its end (:func:`contextlib.closing`): that ends its workers.

        Args:
            epoch: Counted from 1.
            first_step: Steps of the epoch that are already done; their images are not read.
        """
        # The global batch is divided among the ranks exactly as in TrainBatches.
        order = torch.randperm(len(self._data), generator=named_generator(self._seed, "order", epoch))
        rows = [part.tensor_split(world_size())[rank()] for part in order.split(self._batch_size)][
            first_step : len(self)
        ]
        make = partial(
            _ViewsReader,
            self._data.images,
            seed=self._seed,
            epoch=epoch,
            strong=self._strong,
            originals=self._originals,
            flip=self._flip,
        )
        with _slots(make, rows, self._num_workers) as (reader, slots):
            for part, slot in zip(rows, slots, strict=True):
                strong = None if reader.strong is None else reader.strong[slot, : len(part)]
                yield Batch(
                    index=part,
                    weak=_normalised(reader.weak[slot, : len(part)], self._scale, self._device),
                    strong=None if strong is None else _normalised(strong, self._scale, self._device),
                    observed=self._data.observed[part].float(),
                    true=None if self._data.true is None else self._data.true[part].float(),
                    negative=None if self._data.negative is None else self._data.negative[part],
                ).to(self._device)


def load_eval_batches(
    data: SplitData, scale: PixelScale, device: torch.device, num_workers: int = 0
) -> Generator[Tensor, None, None]:
    """Yield this rank's share of a split as normalised images (B, 3, H, W) on a device, in order and unpadded."""
    if isinstance(data.images, InMemoryImages):
        yield from (images.to(device) for _, images in eval_batches(data, scale))
        return
    rows = list(torch.arange(len(data)).tensor_split(world_size())[rank()].split(EVAL_BATCH))
    with _slots(partial(_Reader, data.images), rows, num_workers) as (reader, slots):
        for part, slot in zip(rows, slots, strict=True):
            yield _normalised(reader.weak[slot, : len(part)], scale, device)


class _Reader(Dataset[int]):
    """Reads rows into a slot of the memory that it shares with the main process, and returns the slot's number."""

    def __init__(self, images: Images, num_slots: int, num_rows: int) -> None:
        self._images, self._num_slots, self._num_rows = images, num_slots, num_rows
        self.weak = self._share()

    def __getitem__(self, task: tuple[int, list[int]]) -> int:
        slot, rows = task
        for place, row in enumerate(rows):
            self._put(slot, place, row)
        return slot

    def _put(self, slot: int, place: int, row: int) -> None:
        self.weak[slot, place] = self._read(row)

    def _read(self, row: int) -> Tensor:
        return self._images.read([row])[0].permute(1, 2, 0)

    def _share(self) -> Tensor:
        """Return uint8 (slots, rows, H, W, 3).

        The memory is anonymous and inherited by forking. Unlike torch's shared memory it is not limited by /dev/shm,
        which containers set to 64 MB. It is reused, so it costs neither a file nor page faults per batch (0.7 ms of CPU
        per image at 448 px).
        """
        shape = (self._num_slots, self._num_rows, *self._images.read([]).shape[-2:], 3)
        num_bytes = math.prod(shape)
        return torch.frombuffer(mmap.mmap(-1, max(1, num_bytes)), dtype=torch.uint8)[:num_bytes].view(shape)


class _ViewsReader(_Reader):
    """Puts weak and strong views into slots; ``strong`` is None if it is not wanted."""

    def __init__(
        self,
        images: Images,
        num_slots: int,
        num_rows: int,
        *,
        seed: int,
        epoch: int,
        strong: bool,
        originals: bool,
        flip: bool,
    ) -> None:
        super().__init__(images, num_slots, num_rows)
        self._seed, self._epoch, self._originals, self._flip = seed, epoch, originals, flip
        self.strong = self._share() if strong else None

    def _put(self, slot: int, place: int, row: int) -> None:
        put = self._put_original if self._originals else self._put_resized
        put(row, self.weak[slot, place], None if self.strong is None else self.strong[slot, place])

    def _put_resized(self, row: int, weak: Tensor, strong: Tensor | None) -> None:
        pixels = self._read(row)
        weak.copy_(pixels.flip(1) if self._draw(row, "weak").flip else pixels)
        if strong is not None:
            draw = self._draw(row, "strong")
            strong.copy_(to_pixels(augment(Image.fromarray(pixels.numpy()), draw.ops), draw.flip))

    def _put_original(self, row: int, weak: Tensor, strong: Tensor | None) -> None:
        assert isinstance(self._images, OriginalImages)
        original, (height, width) = self._images.read_original(row), weak.shape[:2]

        def resize(image: Image.Image, flip: bool) -> Tensor:
            return to_pixels(image.resize((width, height), Image.Resampling.BILINEAR), flip)

        weak.copy_(resize(original, self._draw(row, "weak").flip))
        if strong is not None:
            draw = self._draw(row, "strong")
            strong.copy_(resize(augment(original, draw.ops), draw.flip))

    def _draw(self, row: int, view: View) -> ViewDraw:
        draw = draw_view(self._seed, self._epoch, row, view)
        return draw if self._flip else replace(draw, flip=False)


@contextmanager
def _slots(
    make: Callable[[int, int], _ReaderT], rows: Sequence[Tensor], num_workers: int
) -> Iterator[tuple[_ReaderT, Iterator[int]]]:
    """Read batches of rows in order, and end the workers afterwards.

    Args:
        make: (number of slots, rows in the largest batch) -> reader.
        rows: Rows of each batch.
        num_workers: Processes that read; 0 reads in this process.

    Yields:
        The reader and an iterator over the slots of the batches. A slot is valid until the next one is requested.
    """
    # More workers than CPUs would only wait for each other, and torch warns about that.
    num_workers = min(num_workers, len(rows), usable_cpus())
    # DataLoader starts a task only when a batch is requested, so this many slots are enough: the batch in use and
    # those being read never share one.
    num_slots = num_workers * _BATCHES_AHEAD + 1
    reader = make(num_slots, max(map(len, rows), default=0))
    loader = DataLoader(
        reader,
        batch_size=None,  # a batch of rows is one item
        sampler=[(step % num_slots, part.tolist()) for step, part in enumerate(rows)],
        num_workers=num_workers,
        prefetch_factor=_BATCHES_AHEAD if num_workers > 0 else None,
        # Forked workers inherit the slots, and there is no server process to leave behind.
        multiprocessing_context="fork" if num_workers > 0 else None,
        worker_init_fn=partial(_end_if_orphaned, os.getpid()),
        generator=torch.Generator(),  # without it, DataLoader draws from the global stream, which dropout uses
    )
    iterator = iter(loader)
    try:
        yield reader, iterator
    finally:
        # torch ends workers when the iterator is collected, but a traceback may keep it alive for long. There is no
        # public name for this; without the private one, they end later.
        shutdown = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def _end_if_orphaned(parent: int, worker: int) -> None:
    """End this worker if its run was killed while it was starting.

    Torch's own check remembers the parent only after this point: a worker that is an orphan by then would wait forever.
    """
    if os.getppid() != parent:
        os._exit(1)


def _normalised(pixels: Tensor, scale: PixelScale, device: torch.device) -> Tensor:
    """Return a slot's uint8 (B, H, W, 3) as normalised (B, 3, H, W) on a device, copied out of the slot."""
    if device.type == "cuda":
        pixels = pixels.pin_memory()  # a copy, so the slot is free during the transfer
    return scale.normalise(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2))
