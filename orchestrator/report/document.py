"""What a report consists of, before it is written as HTML, Markdown, LaTeX, CSV or Parquet.

Texts are plain: backticks mark what a user can type or copy; everything else is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure as Drawing

Cell = str | int | float | None


class Link(str):
    """A text in a table that leads to a row of another one, on the page; elsewhere it is the text alone.

    Attributes:
        anchor: That of the row.
    """

    anchor: str

    def __new__(cls, text: str, anchor: str) -> Link:
        """Return the text with its anchor."""
        made = super().__new__(cls, text)
        made.anchor = anchor
        return made


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its header, and its name in CSV and Parquet.
        digits: How many decimals of a number a reader sees; None shows four significant digits. CSV and Parquet have
            every digit.
    """

    name: str
    digits: int | None = None


Headers = list[str | Column]
"""Columns of a table; one that needs no digits is given by its name."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Name of its files, and its anchor on the page.
        title: What it shows, in one line.
        note: What a reader has to know, below it.
        anchors: One for each row, if links lead to them.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    anchors: tuple[str, ...] = ()

    @property
    def is_number(self) -> tuple[bool, ...]:
        """Whether each column holds nothing but numbers."""
        cells = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return tuple(all(cell is None or isinstance(cell, int | float) for cell in column) for column in cells)


@dataclass(frozen=True)
class Figure:
    """A figure with the numbers behind it.

    Attributes:
        name: Name of its file, and its anchor on the page.
        title: What it shows, in one line.
        description: What can be seen, for those who cannot see it and for those who read it the first time.
        draw: Draws it; called only for formats that have pictures.
        table: Its data.
    """

    name: str
    title: str
    description: str
    draw: Callable[[], Drawing]
    table: Table


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn before, as a PNG."""

    name: str
    title: str
    description: str
    png: bytes


Part = Table | Figure | Picture


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, some sentences, then tables and figures."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        name: The id of what it is about; part of the names of its files.
        title: Its heading.
        context: What all scores refer to, below the heading.
        findings: What was found, in sentences; the first is the most important.
        facts: (what, value) of the few numbers that a reader looks for.
        footer: How it was made.
    """

    name: str
    title: str
    context: str
    findings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: tuple[str, ...] = ()

    def tables(self) -> Iterator[Table]:
        """Yield every table, those behind figures included."""
        for section in self.sections:
            for part in section.parts:
                if not isinstance(part, Picture):
                    yield part if isinstance(part, Table) else part.table


def make_table(
    name: str,
    title: str,
    columns: Headers,
    rows: Iterable[Sequence[Cell]],
    note: str = "",
    anchors: Iterable[str] = (),
) -> Table:
    """Return a table."""
    named = tuple(column if isinstance(column, Column) else Column(column) for column in columns)
    return Table(name, title, named, tuple(tuple(row) for row in rows), note, tuple(anchors))


def format_cell(cell: Cell, column: Column) -> str:
    """Return a cell as a reader sees it."""
    if cell is None or cell != cell:  # NaN is nothing to read either
        return ""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4g}" if column.digits is None else f"{cell:.{column.digits}f}"
