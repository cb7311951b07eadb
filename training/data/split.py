"""Types of one split of a dataset: its labels in memory, its images in memory or in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor


class Images(Protocol):
    """Images of one size, read by row; they can be pickled and read in another process."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return uint8 (n, 3, H, W), or (0, 3, H, W) for no rows.

        Channels should be last in memory, so that the loader need not copy.
        """
        ...


@runtime_checkable
class OriginalImages(Images, Protocol):
    """Images whose original files were kept too."""

    def read_original(self, row: int) -> Image.Image:
        """Return one original in RGB, rotated as its EXIF data says."""
        ...


class InMemoryImages:
    """Images that fit into memory.

    Args:
        pixels: uint8 (N, 3, H, W).
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return copies of some images, uint8 (n, 3, H, W)."""
        return self.pixels[list(rows)]


@dataclass(frozen=True)
class SplitData:
    """Images and labels of one split.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        images: N images of one size.
        observed: bool (N, C), at most one True per row if it was drawn; all other labels are unknown.
        true: bool (N, C), or None if only observed labels exist.
        boxes: int16 (N, M, 5) of (class, left, top, right, bottom) in px of the images as read, padded with -1, or
            None.
        classes: C names.
        names: N names of the images, or empty if they have none.
        negative: bool (N, C), the labels that are known to be negative, or None if the run uses none.
        recordings: long (N,), which recording each image is a part of, counted from 0, or None if that is not known.
    """

    name: str
    images: Images
    observed: Tensor
    true: Tensor | None
    boxes: Tensor | None
    classes: tuple[str, ...]
    names: tuple[str, ...] = ()
    negative: Tensor | None = None
    recordings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> tuple[str, ...]:
        """N ids: the names, or the rows in an order that never changes (``test-00012``)."""
        return self.names or tuple(f"{self.name}-{row:05d}" for row in range(len(self)))
