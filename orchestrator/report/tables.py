"""Write the texts and tables of a report as Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from orchestrator.csv_text import write_rows
from orchestrator.report.document import Cell, Column, Figure, Report, Table, format_cell

MOST_ROWS = 200
"""Longer tables are cut in texts and on the page; CSV and Parquet have every row."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")
_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
# What fits on a page; a table that is wider and this low is turned.
_MOST_LATEX_ROWS, _MOST_WRAPPED_ROWS, _MOST_LATEX_COLUMNS, _LONGEST_LATEX_CELL = 40, 12, 15, 50
CODE = re.compile(r"`([^`]+)`")


def write_csv(table: Table) -> str:
    """Return a table as CSV, with every digit."""
    names = [column.name for column in table.columns]
    return write_rows([dict(zip(names, row, strict=True)) for row in table.rows], names)


def make_parquet(table: Table) -> pa.Table:
    """Return a table for Parquet: columns of numbers as numbers, all others as text."""
    columns = {}
    for number, (column, is_number) in enumerate(zip(table.columns, table.is_number, strict=True)):
        cells: list[Cell] = [row[number] for row in table.rows]
        columns[column.name] = _as_numbers(cells) if is_number else _as_text(cells)
    return pa.table(columns)


def _as_numbers(cells: list[Cell]) -> pa.Array:
    is_whole = all(isinstance(cell, int) for cell in cells if cell is not None)
    return pa.array(cells, pa.int64() if is_whole else pa.float64())


def _as_text(cells: list[Cell]) -> pa.Array:
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


def write_markdown(report: Report, figures: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Return a report as Markdown.

    Args:
        report: What to write.
        figures: Name of a figure -> its file beside the text.
        files: Name of a table -> the file with all its rows, if one is written.
    """
    return "\n\n".join(_markdown(report, figures, files)) + "\n"


def _markdown(report: Report, figures: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    yield f"# {_mark(report.title)}"
    yield _mark(report.context)
    yield "\n".join(f"- {_mark(sentence)}" for sentence in report.findings)
    for section in report.sections:
        yield f"## {_mark(section.title)}"
        yield from map(_mark, section.paragraphs)
        for part in section.parts:
            yield f"### {_mark(part.title)}"
            if isinstance(part, Table):
                yield from _markdown_table(part, files)
                continue
            if part.name in figures:
                yield f"![{_mark(part.title)}]({figures[part.name]})"
            yield _mark(part.description)
            if isinstance(part, Figure):
                yield from _markdown_table(part.table, files)
    yield from map(_mark, report.footer)


def _markdown_table(table: Table, files: Mapping[str, str]) -> Iterator[str]:
    rows = [[_mark(format_cell(cell, column)) for cell, column in _zip(row, table)] for row in table.rows[:MOST_ROWS]]
    rules = ["---:" if is_number else "---" for is_number in table.is_number]
    lines = [[_mark(column.name) for column in table.columns], rules, *rows]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    yield from map(_mark, say_below(table, files))


def say_below(table: Table, files: Mapping[str, str], most_rows: int = MOST_ROWS) -> Iterator[str]:
    """Yield the lines below a table: where its other rows are, and its note."""
    if len(table.rows) > most_rows:
        whole = f" All of them: `{files[table.name]}`." if table.name in files else ""
        yield f"{most_rows} of {len(table.rows):,} rows.{whole}"
    if table.note:
        yield table.note


def _mark(text: str) -> str:
    """Return a text for Markdown, in which nothing but code between backticks is markup."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(f"`{part}`" if number % 2 else _MARKDOWN.sub(r"\\\1", part) for number, part in enumerate(parts))


def write_latex(report: Report, files: Mapping[str, str]) -> str:
    """Return the tables of a report as LaTeX, to be read by another file; they need booktabs and graphicx."""
    lines = [f"% {' '.join(report.title.split())}", "% \\usepackage{booktabs,graphicx}"]
    for table in report.tables():
        lines += ["", *_latex_table(table, files)]
    return "\n".join(lines) + "\n"


def _latex_table(table: Table, files: Mapping[str, str]) -> Iterator[str]:
    header = tuple(column.name for column in table.columns)
    cells = [
        tuple(format_cell(cell, column) for cell, column in _zip(row, table)) for row in table.rows[:_MOST_LATEX_ROWS]
    ]
    alignment = "".join(_align([row[n] for row in cells], is_number) for n, is_number in enumerate(table.is_number))
    most_rows = _MOST_WRAPPED_ROWS if "p" in alignment else _MOST_LATEX_ROWS
    cells = cells[:most_rows]
    if cells and len(header) > _MOST_LATEX_COLUMNS >= len(cells):
        header, *cells = zip(header, *cells, strict=True)
        alignment = "l" + "r" * (len(header) - 1)
    note = " ".join(say_below(table, files, most_rows))
    yield r"\begin{table}"
    yield r"\centering"
    yield rf"\caption{{{_tex(table.title)}.{' ' + _tex(note) if note else ''}}}"
    yield rf"\label{{tab:{table.name}}}"
    # Only a table that is wider than the text is made smaller.
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{alignment}}}"
    yield r"\toprule"
    yield _latex_row(header)
    yield r"\midrule"
    yield from map(_latex_row, cells)
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield r"\end{table}"


def _align(cells: Iterable[str], is_number: bool) -> str:
    if is_number:
        return "r"
    return "p{7cm}" if max(map(len, cells), default=0) > _LONGEST_LATEX_CELL else "l"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    plain = CODE.sub(r"\1", " ".join(text.split()))
    return "".join(_LATEX.get(character, character) for character in plain)


def _zip(row: tuple[Cell, ...], table: Table) -> Iterator[tuple[Cell, Column]]:
    return zip(row, table.columns, strict=True)
