"""Batches of a prepared store through torch's DataLoader, and the one place that chooses between it and batches made in
memory.

Workers hand over uint8 with channels last, through memory that both sides share: a quarter of the bytes of floats,
nothing is transposed or copied in between, and normalisation is the device's.
Order, flips and operations are functions of (seed, epoch, row) alone, so that number of workers, batch size and ranks
never change what an image becomes, and an epoch can be entered at any step.

Worker processes live as long as one pass over a split: nothing is left behind when a run ends, fails or is dropped
half-way, and forking them anew costs milliseconds.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config.run import TrainConfig
from training.data.batches import Batch, TrainBatches, count_batches, eval_batches
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
        """Yield this rank's part of every global batch of an epoch, after the first ``first_step`` of them."""
        ...


def make_train_batches(
    data: SplitData, scale: PixelScale, config: TrainConfig, strong: bool, device: torch.device
) -> Batches:
    """Return what a run trains on.

    Args:
        data: The train split.
        scale: Normalisation.
        config: Of the run.
        strong: Whether batches carry the strong view.
        device: Where batches of a store are normalised and handed over; batches made in memory are handed over on the
            CPU.

    Raises:
        ConfigError: ``data.augment_order=original`` without originals.
    """
    originals = config.data.augment_order == "original"
    if originals and not isinstance(data.images, OriginalImages):
        raise ConfigError(
            f"data.augment_order=original must have the original images, but {config.data.name} was prepared without "
            f"them. "
            f"Prepare it again: orchestrator data prepare {config.data.name} --source DIR --keep-originals",
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
    )


class StoreBatches:
    """Iterates a split of a store for training, in a new order each epoch.

    Args:
        data: The split.
        scale: Normalisation.
        batch_size: The global batch, over all ranks.
        seed: Training seed.
        strong: Whether to make the strong view too, from the same decoded image.
        originals: Make both views from the original, RandAugment before the resize, as released; else from the resized
            image.
        num_workers: Processes that make views; 0 makes them here.
        device: Where batches are normalised and handed over.
        drop_last: Leave out the last batch of an epoch where it is smaller than the others.
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
    ) -> None:
        self._num_batches = count_batches(len(data), batch_size, drop_last=drop_last)
        self._data, self._scale, self._batch_size, self._seed = data, scale, batch_size, seed
        self._strong, self._originals, self._num_workers = strong, originals, num_workers
        self._device = device or torch.device("cpu")

    def __len__(self) -> int:
        return self._num_batches

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """Yield this rank's part of every global batch; the last batch is smaller, and a rank's part of it may be
        empty.

        Close the iterator when it is left before its end (:func:`contextlib.closing`): that ends its workers.

        Args:
            epoch: Counted from 1.
            first_step: Steps of the epoch that were done before; their images are not read.
        """
        # The same split of the global batch as TrainBatches makes.
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
                ).to(self._device)


def load_eval_batches(
    data: SplitData, scale: PixelScale, device: torch.device, num_workers: int = 0
) -> Generator[Tensor, None, None]:
    """Yield this rank's share of a split on a device, in order, unpadded and without views: normalised images (B, 3, H,
    W).
    """
    if isinstance(data.images, InMemoryImages):
        yield from (images.to(device) for _, images in eval_batches(data, scale))
        return
    rows = list(torch.arange(len(data)).tensor_split(world_size())[rank()].split(EVAL_BATCH))
    with _slots(partial(_Reader, data.images), rows, num_workers) as (reader, slots):
        for part, slot in zip(rows, slots, strict=True):
            yield _normalised(reader.weak[slot, : len(part)], scale, device)


class _Reader(Dataset[int]):
    """Puts what it makes of some rows into a slot of memory that it shares with the process that asked, and returns the
    slot.
    """

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

        Anonymous and inherited by forking: unlike torch's own way it meets no limit of /dev/shm, which containers set
        to 64 MB, and as it is used again and again, it costs neither a file nor a page fault a batch (0.7 ms of CPU an
        image at 448 px).
        """
        shape = (self._num_slots, self._num_rows, *self._images.read([]).shape[-2:], 3)
        num_bytes = math.prod(shape)
        return torch.frombuffer(mmap.mmap(-1, max(1, num_bytes)), dtype=torch.uint8)[:num_bytes].view(shape)


class _ViewsReader(_Reader):
    """Puts weak and strong views into slots; ``strong`` is None where it is not asked for."""

    def __init__(
        self, images: Images, num_slots: int, num_rows: int, *, seed: int, epoch: int, strong: bool, originals: bool
    ) -> None:
        super().__init__(images, num_slots, num_rows)
        self._seed, self._epoch, self._originals = seed, epoch, originals
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
        return draw_view(self._seed, self._epoch, row, view)


@contextmanager
def _slots(
    make: Callable[[int, int], _ReaderT], rows: Sequence[Tensor], num_workers: int
) -> Iterator[tuple[_ReaderT, Iterator[int]]]:
    """Read batches of rows in order; end the workers afterwards.

    Args:
        make: (number of slots, rows in the largest batch) -> reader.
        rows: Of each batch.
        num_workers: Processes that read; 0 reads here.

    Yields:
        The reader and, batch by batch, the slot in which it lies: until the next one is asked for.
    """
    # More workers than cores only wait for each other, and torch warns of them.
    num_workers = min(num_workers, len(rows), usable_cpus())
    # DataLoader hands out a task only when a batch is asked for: the one in use and those under way never share a slot.
    num_slots = num_workers * _BATCHES_AHEAD + 1
    reader = make(num_slots, max(map(len, rows), default=0))
    loader = DataLoader(
        reader,
        batch_size=None,  # a batch of rows is one item
        sampler=[(step % num_slots, part.tolist()) for step, part in enumerate(rows)],
        num_workers=num_workers,
        prefetch_factor=_BATCHES_AHEAD if num_workers > 0 else None,
        multiprocessing_context="fork"
        if num_workers > 0
        else None,  # shares the slots, and leaves no server process behind
        generator=torch.Generator(),  # else it draws from the global stream, which dropout uses
    )
    iterator = iter(loader)
    try:
        yield reader, iterator
    finally:
        # torch ends workers when the iterator is collected, but a traceback may hold it for long, and it has no public
        # name for this.
        shutdown = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def _normalised(pixels: Tensor, scale: PixelScale, device: torch.device) -> Tensor:
    """Return a slot's uint8 (B, H, W, 3) as normalised (B, 3, H, W) on a device, in memory of its own."""
    if device.type == "cuda":
        pixels = pixels.pin_memory()  # a copy: the slot is free again while it is on its way
    return scale.normalise(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2))
