"""Write a report into a folder, in every format that was asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from orchestrator.errors import UserError
from orchestrator.report.document import Figure, Picture, Report
from orchestrator.report.page import write_page
from orchestrator.report.svg import drawing, write_svg
from orchestrator.report.tables import make_parquet, write_csv, write_latex, write_markdown
from training.files import open_whole, write_whole

FORMATS = ("html", "md", "tex", "csv", "parquet")
PAGE_FILE = "report.html"
_TABLES, _FIGURES = "tables", "figures"


def write_report(report: Report, folder: Path, formats: Collection[str] = FORMATS) -> list[Path]:
    """Write a report; files of an earlier one are replaced.

    Args:
        report: What to write.
        folder: Created if it does not exist.
        formats: Some of ``FORMATS``. Markdown comes with its figures as SVG.

    Returns:
        The files, the page first.

    Raises:
        UserError: They cannot be written.
    """
    try:
        return [_write(folder / name, content) for name, content in _render(report, formats)] + _write_parquet(
            report, folder, formats
        )
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder} ({error.strerror or error}). Name another folder with --out."
        ) from None


def render_page(report: Report) -> str:
    """Return the page alone, whose tables refer to no file beside it."""
    return write_page(report, _draw(report), {})


def _render(report: Report, formats: Collection[str]) -> Iterator[tuple[str, str | bytes]]:
    suffix = next((each for each in ("csv", "parquet") if each in formats), None)
    files = {table.name: f"{_TABLES}/{table.name}.{suffix}" for table in report.tables()} if suffix else {}
    drawings = _draw(report) if {"html", "md"} & set(formats) else {}
    if "html" in formats:
        yield PAGE_FILE, write_page(report, drawings, files)
    if "md" in formats:
        pictures = {part.name: part.png for part in _parts(report) if isinstance(part, Picture)}
        figures = {name: f"{_FIGURES}/{name}.svg" for name in drawings}
        figures |= {name: f"{_FIGURES}/{name}.png" for name in pictures}
        yield "report.md", write_markdown(report, figures, files)
        yield from ((figures[name], content) for name, content in drawings.items())
        yield from ((figures[name], png) for name, png in pictures.items())
    if "tex" in formats:
        yield "tables.tex", write_latex(report, files)
    if "csv" in formats:
        yield from ((f"{_TABLES}/{table.name}.csv", write_csv(table)) for table in report.tables())


def _draw(report: Report) -> dict[str, str]:
    drawn = {}
    for part in _parts(report):
        if isinstance(part, Figure):
            with drawing():
                drawn[part.name] = write_svg(part.draw())
    return drawn


def _parts(report: Report) -> Iterator[object]:
    return (part for section in report.sections for part in section.parts)


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return path


def _write_parquet(report: Report, folder: Path, formats: Collection[str]) -> list[Path]:
    if "parquet" not in formats:
        return []
    paths = []
    for table in report.tables():
        path = folder / _TABLES / f"{table.name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(path) as file:
            pq.write_table(make_parquet(table), file)
        paths.append(path)
    return paths
