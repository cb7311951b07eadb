"""Make batches of a split in memory; the order and views of an epoch depend only on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.split import SplitData
from training.data.views import PixelScale, draw_shifts, draw_strong, shift, strengthen
from training.distributed import rank, world_size
from training.seeding import named_generator


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch.

    Attributes:
        index: long (B,), the examples' positions in the split.
        weak: float (B, 3, H, W), the weak view after normalisation (0 is the mean colour).
        strong: float (B, 3, H, W), the strong view, or None if the method needs none.
        observed: float (B, C), 1 for the one observed positive, 0 for unknown.
        true: float (B, C), or None if only observed labels exist.
        negative: bool (B, C), the labels that are known to be negative, or None if none is.
    """

    index: Tensor
    weak: Tensor
    strong: Tensor | None
    observed: Tensor
    true: Tensor | None
    negative: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        return Batch(
            index=self.index.to(device, non_blocking=True),
            weak=self.weak.to(device, non_blocking=True),
            strong=None if self.strong is None else self.strong.to(device, non_blocking=True),
            observed=self.observed.to(device, non_blocking=True),
            true=None if self.true is None else self.true.to(device, non_blocking=True),
            negative=None if self.negative is None else self.negative.to(device, non_blocking=True),
        )


class TrainBatches:
    """Iterates one split for training, in a new order each epoch.

    Args:
        data: The split.
        scale: Normalisation.
        batch_size: The global batch, over all ranks.
        seed: Training seed.
        strong_strength: Strength of the strong view, or None to make none.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others.
    """

    def __init__(
        self,
        data: SplitData,
        scale: PixelScale,
        batch_size: int,
        seed: int,
        strong_strength: float | None,
        *,
        drop_last: bool = False,
    ) -> None:
        self._data, self._scale = data, scale
        self._batch_size, self._seed, self._strength = batch_size, seed, strong_strength
        self._num_batches = count_batches(len(data), batch_size, drop_last=drop_last)
        self._observed = data.observed.float()  # once, not for each batch
        self._true = None if data.true is None else data.true.float()

    def __len__(self) -> int:
        return self._num_batches

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """Yield this rank's part of every global batch; the last batch may be smaller, and its part may be empty.

        Args:
            epoch: Counted from 1.
            first_step: Steps of the epoch that are already done.
        """
        num = len(self._data)
        # Drawn for the whole epoch even if its first steps are done, so that it can be entered at any step.
        order = torch.randperm(num, generator=named_generator(self._seed, "order", epoch))
        shifts = draw_shifts(num, named_generator(self._seed, "weak", epoch))
        strong = None
        if self._strength is not None:
            size = self._data.images.read([]).shape[-1]  # reading no rows gives the size without touching a file
            strong = draw_strong(num, size, self._strength, named_generator(self._seed, "strong", epoch))
        # len(self) leaves out a last batch that is to be dropped.
        for rows in order.split(self._batch_size)[first_step : len(self)]:
            # Divided only here, so that global batches are the same for any number of ranks.
            rows = rows.tensor_split(world_size())[rank()]
            images = self._data.images.read(rows.tolist())
            yield Batch(
                index=rows,
                weak=self._scale.normalise(shift(images, shifts[rows])),
                strong=None if strong is None else self._scale.normalise(strengthen(images, strong, rows)),
                observed=self._observed[rows],
                true=None if self._true is None else self._true[rows],
                negative=None if self._data.negative is None else self._data.negative[rows],
            )


def count_batches(num_examples: int, batch_size: int, *, drop_last: bool) -> int:
    """Return the number of batches of an epoch, at least one; a smaller last one counts unless it is dropped."""
    return max(1, num_examples // batch_size) if drop_last else -(-num_examples // batch_size)


def eval_batches(data: SplitData, scale: PixelScale, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's share of a split, in order and unpadded: rows (B,) and normalised images (B, 3, H, W)."""
    # Not padded to equal shares: every image must count exactly once in the metrics.
    mine = torch.arange(len(data)).tensor_split(world_size())[rank()]
    for rows in mine.split(batch_size):
        yield rows, scale.normalise(data.images.read(rows.tolist()))
