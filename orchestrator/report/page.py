"""Write a report as one HTML page that fetches nothing: figures, styles and script are in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources

from orchestrator.report.document import Cell, Column, Figure, Link, Part, Picture, Report, Section, Table, format_cell
from orchestrator.report.svg import inline_svg
from orchestrator.report.tables import CODE, MOST_ROWS, say_below

_LONG_CELL = 80


def write_page(report: Report, drawings: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        report: What to show.
        drawings: Name of each figure -> its SVG.
        files: Name of a table -> the file beside the page that has all its rows, if one is written.
    """
    style, script = _read("page.css"), _read("page.js")
    # Everything that the page may use is in it, and a browser that honours this shows that nothing is fetched.
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'; "
        f"form-action 'none'"
    )
    body = "\n".join(_body(report, drawings, files))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _read(name: str) -> str:
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _body(report: Report, drawings: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    yield '<a class="skip" href="#findings">Skip to what was found</a>'
    yield f"<header>\n<h1>{escape(report.title)}</h1>"
    yield f'<p class="context">{_text(report.context)}</p>\n</header>\n<main>'
    yield '<section id="findings" aria-label="What was found">\n<dl class="facts">'
    yield from (f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in report.facts)
    yield '</dl>\n<ul class="findings">'
    yield from (f"<li>{_text(sentence)}</li>" for sentence in report.findings)
    yield "</ul>\n</section>"
    links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in report.sections)
    yield f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    for section in report.sections:
        yield from _section(section, drawings, files)
    yield "</main>\n<footer>"
    yield from (f"<p>{_text(line)}</p>" for line in report.footer)
    yield "</footer>"


def _section(section: Section, drawings: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    yield f'<section id="{section.name}" aria-labelledby="{section.name}-h">'
    yield f'<h2 id="{section.name}-h">{escape(section.title)}</h2>'
    yield from (f"<p>{_text(paragraph)}</p>" for paragraph in section.paragraphs)
    for part in section.parts:
        yield from _part(part, drawings, files)
    yield "</section>"


def _part(part: Part, drawings: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    if isinstance(part, Table):
        yield f'<h3 id="t-{part.name}">{escape(part.title)}</h3>'
        yield from _table(part, files, f"t-{part.name}")
        return
    yield f'<figure id="f-{part.name}">\n<h3>{escape(part.title)}</h3>'
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        yield f'<img alt="{escape(part.description)}" src="data:image/png;base64,{data}">'
    else:
        yield inline_svg(drawings[part.name], part.name, part.title, part.description)
    yield f"<figcaption>{_text(part.description)}</figcaption>"
    if isinstance(part, Figure):
        yield "<details><summary>The numbers</summary>"
        yield from _table(part.table, files, None)
        yield "</details>"
    yield "</figure>"


def _table(table: Table, files: Mapping[str, str], heading: str | None) -> Iterator[str]:
    name = f'aria-labelledby="{heading}"' if heading else f'aria-label="{escape(table.title)}"'
    # Focusable, because a table that is wider than the screen is scrolled by keyboard too.
    yield f'<div class="scroll" role="region" tabindex="0" {name}>'
    yield '<table class="sortable">\n<thead><tr>'
    looks = [_look(table, place) for place in range(len(table.columns))]
    yield "".join(
        f'<th scope="col"{look}>{escape(column.name)}</th>' for column, look in zip(table.columns, looks, strict=True)
    )
    yield "</tr></thead>\n<tbody>"
    for number, row in enumerate(table.rows[:MOST_ROWS]):
        cells = (
            f"<td{look}>{_cell(cell, column)}</td>"
            for cell, column, look in zip(row, table.columns, looks, strict=True)
        )
        anchor = f' id="{escape(table.anchors[number])}"' if table.anchors else ""
        yield f"<tr{anchor}>{''.join(cells)}</tr>"
    yield "</tbody>\n</table>\n</div>"
    yield from (f'<p class="note">{_text(line)}</p>' for line in say_below(table, files))


def _look(table: Table, place: int) -> str:
    """Return the class of a column: numbers are aligned, and sentences get room."""
    if table.is_number[place]:
        return ' class="n"'
    is_long = any(len(str(row[place] or "")) > _LONG_CELL for row in table.rows[:MOST_ROWS])
    return ' class="long"' if is_long else ""


def _cell(cell: Cell, column: Column) -> str:
    text = escape(format_cell(cell, column))
    return f'<a href="#{escape(cell.anchor)}">{text}</a>' if isinstance(cell, Link) else text


def _text(text: str) -> str:
    """Return a text for the page; what is between backticks becomes code."""
    return CODE.sub(r"<code>\1</code>", escape(text))
