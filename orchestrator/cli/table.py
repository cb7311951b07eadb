"""Fits tables to a terminal: numbers and states are never broken; columns that do not fit are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table
from rich.text import Text

_GAP = 2
_LEAST_WRAPPED = 24
"""Sentences in a narrower column are hard to read."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its header; may be shown over several lines.
        wrapped: Whether its cells may.
    """

    name: str
    cells: tuple[str, ...]
    right: bool = False
    wrapped: bool = False
    header: str | None = None
    """The name as it is shown, if that differs."""

    @property
    def width(self) -> int:
        """The smallest number of terminal columns that it needs."""
        lines = (self.header or self.name).split("\n")
        cells = max(map(len, self.cells), default=0)
        return max(*map(len, lines), min(cells, _LEAST_WRAPPED) if self.wrapped else cells)


def fit_columns(columns: Sequence[Column], drop: Sequence[int], width: int) -> list[Column]:
    """Return the columns that fit a terminal.

    Args:
        columns: All columns.
        drop: Indices of those that may be left out, in the order in which they go.
        width: Width of the terminal.

    Returns:
        All of them if they fit; otherwise with headers broken after underscores; if that is not enough, without as many
        of ``drop`` as necessary.
    """
    if _total(columns) <= width:
        return list(columns)
    # Breaking headers costs nothing but a line; dropping a column costs information.
    broken = {index: replace(column, header=column.name.replace("_", "_\n")) for index, column in enumerate(columns)}
    for index in drop:
        if _total(list(broken.values())) <= width:
            break
        del broken[index]
    return list(broken.values())


def render_plain(columns: Sequence[Column]) -> list[str]:
    """Return the whole table as lines. Does not use rich, which needs half a second for a thousand rows."""
    widths = [max(len(column.name), max(map(len, column.cells), default=0)) for column in columns]
    rows = [tuple(column.name for column in columns), *zip(*(column.cells for column in columns), strict=True)]
    # Numbers line up at the right, as in the terminal.
    fills = [str.rjust if column.right else str.ljust for column in columns]
    gap = " " * _GAP
    return [
        gap.join(fill(cell, width) for fill, cell, width in zip(fills, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def render_table(columns: Sequence[Column]) -> Table:
    """Return the table for rich, its headers underlined."""
    # The box adds one blank of its own between columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.header or column.name),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not column.wrapped,
            # Without it, rich narrows all columns in proportion, and breaks numbers.
            min_width=None if column.wrapped else column.width,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)
