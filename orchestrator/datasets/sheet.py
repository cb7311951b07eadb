"""Choose images of a split for a sheet, and collect what is known about each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.errors import UserError
from orchestrator.terminal_text import one_line
from training.counts import counted
from training.data.sources.annotations import some
from training.data.split import SplitData
from training.data.store.known_labels import all_known
from training.data.store.reader import Store

Point = tuple[str, float, float]
MOST_IMAGES = 100
_SPAN = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Picture:
    """One image of a sheet.

    Attributes:
        title: Its row and id.
        pixels: uint8 (H, W, 3).
        observed: Names of the observed positives.
        hidden: Names of the true positives that are not observed, or None if true labels are not available.
        num_unknown: Number of labels of which nothing is known: neither observed nor known to be negative.
        boxes: (name, left, top, right, bottom) in px of ``pixels``.
        points: (name, x, y) in px of ``pixels``.
        negative: Names of the labels that are known to be negative.
    """

    title: str
    pixels: NDArray[np.uint8]
    observed: tuple[str, ...]
    hidden: tuple[str, ...] | None
    num_unknown: int
    boxes: tuple[tuple[str, float, float, float, float], ...] = ()
    points: tuple[Point, ...] = ()
    negative: tuple[str, ...] = ()

    def caption(self) -> str:
        """Return what is known about the image's labels, in one line."""
        observed = f"observed {', '.join(map(one_line, self.observed)) or 'none'}"
        if self.negative:
            observed += f"; {counted(len(self.negative), 'known negative')} ({one_line(some(self.negative))})"
        if self.hidden is None:
            return f"{observed}; {self.num_unknown} unknown, true labels not available"
        if not self.hidden:
            return f"{observed}; {self.num_unknown} unknown, none of them true"
        return f"{observed}; true but not observed {', '.join(map(one_line, self.hidden))}; {self.num_unknown} unknown"


def read_rows(texts: Sequence[str], num_images: int) -> list[int]:
    """Return the rows that ``--index`` names: ``7``, or ``3,8,20-25``.

    Raises:
        UserError: It is not a list of rows, or the split has no such row.
    """
    rows: list[int] = []
    for text in ",".join(texts).split(","):
        span = _SPAN.fullmatch(text.strip())
        if span is None:
            raise UserError(f"--index must be rows such as 3,8,20-25, but got --index={text.strip()!r}.")
        first, last = int(span[1]), int(span[2] or span[1])
        if not first <= last < num_images:
            raise UserError(
                f"--index must be between 0 and {num_images - 1}, the split's rows, but got --index={text.strip()}."
            )
        if len(rows) + last - first >= MOST_IMAGES:
            raise UserError(f"A sheet holds at most {MOST_IMAGES} images, but --index names more. Draw several sheets.")
        # In the order given, each row once.
        rows += [row for row in range(first, last + 1) if row not in rows]
    return rows


def spread_rows(num_images: int, num_shown: int) -> list[int]:
    """Return ``num_shown`` rows, spread evenly over a split."""
    num_shown = min(num_images, num_shown)
    # Not random, so that redrawing a sheet after a change shows only the change.
    return [row * num_images // num_shown for row in range(num_shown)]


def make_pictures(
    store: Store, data: SplitData, phase: str, official: NDArray[np.int64], rows: Sequence[int]
) -> list[Picture]:
    """Return images of a split and what is known about them.

    Args:
        store: The store.
        data: One of its splits.
        phase, official: The official phase of the split and its rows there, from ``store.rows``.
        rows: Rows of the split.
    """
    table = store.labels(phase)
    known = all_known(table).negative(table)
    pictures = []
    for row, pixels in zip(rows, data.images.read(rows), strict=True):
        points = () if table.points is None else _points(store.manifest.parts, table.points[official[row]])
        # All that is known, whatever part of it a run would use.
        negative = () if known is None else tuple(data.classes[each] for each in known[official[row]].nonzero()[0])
        pictures.append(_make_picture(data, row, f"{row}: {table.ids[official[row]]}", pixels, points, negative))
    return pictures


def _make_picture(
    data: SplitData, row: int, title: str, pixels: Tensor, points: tuple[Point, ...], negative: tuple[str, ...]
) -> Picture:
    observed = data.observed[row].bool()
    boxes = [] if data.boxes is None else data.boxes[row].tolist()
    return Picture(
        title=title,
        pixels=pixels.permute(1, 2, 0).numpy(),
        observed=_names(data, observed),
        hidden=None if data.true is None else _names(data, data.true[row].bool() & ~observed),
        num_unknown=len(data.classes) - int(observed.sum()) - len(negative),
        boxes=tuple(
            (data.classes[box[0]], float(box[1]), float(box[2]), float(box[3]), float(box[4]))
            for box in boxes
            if box[0] >= 0
        ),
        points=points,
        negative=negative,
    )


def _points(parts: Sequence[str], points: NDArray[np.float32]) -> tuple[Point, ...]:
    return tuple((parts[int(part)], float(x), float(y)) for part, x, y in points)


def _names(data: SplitData, labels: Tensor) -> tuple[str, ...]:
    return tuple(data.classes[int(index)] for index in labels.nonzero()[:, 0])
