"""Prints output for the verbs: fitted to a terminal, or complete and plain into a pipe."""

from __future__ import annotations

import codecs
import io
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.csv_text import write_rows
from orchestrator.program import name_as_called, program
from orchestrator.terminal_text import show_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

NO_TRUE_LABELS = (
    "True labels are not available: val/mAP, rejection precision and recall, and false negatives are not measured."
)
# rich has no setting for "never wrap".
_UNWRAPPED = 100_000
_ESCAPING = "orchestrator.escape"
_escaped: set[str] = set()
"""The encodings that lacked a character so far."""
Row = Mapping[str, Any]


def accept_any_text() -> None:
    """Let stdout and stderr print the code of a character that their encoding lacks, instead of failing.

    Class names, paths and file names may hold any character, and a terminal or a pipe may be set to Latin-1 or ASCII.
    """
    codecs.register_error(_ESCAPING, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPING)


def tell_of_escapes() -> None:
    """Say that characters were printed as codes, if any were."""
    if _escaped:
        print_note(
            f"note: the encoding {' or '.join(sorted(_escaped))} lacks some characters, which are printed as codes. "
            f"For the characters themselves: export PYTHONIOENCODING=utf-8"
        )
        _escaped.clear()


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        _escaped.add(error.encoding)
    return codecs.backslashreplace_errors(error)


def print_line(text: str = "") -> None:
    """Print a line."""
    print(show_controls(name_as_called(text)), flush=True)


def print_file(text: str) -> None:
    """Print what the user will save to a file: its commands stay as they are on every machine."""
    print(show_controls(text), flush=True)


def print_note(text: str) -> None:
    """Print a line to stderr, so that a pipe gets only the result."""
    print(show_controls(name_as_called(text)), file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print a value as JSON; NaN and infinity become null, because JSON has neither."""
    print(json.dumps(_finite(value), indent=2, default=str, allow_nan=False), flush=True)


def print_csv(rows: Sequence[Row]) -> None:
    """Print rows as CSV; nested mappings become dotted columns, and rows may lack some of them."""
    text = write_rows(_flatten(row) for row in rows)
    print(show_controls(text) if sys.stdout.isatty() else text, end="", flush=True)


def print_text(text: str) -> None:
    """Print a sentence, wrapped to the terminal; in a pipe it is one line."""
    print_line(wrap_words(text, sys.stdout))


def wrap_words(text: str, stream: TextIO) -> str:
    """Return a sentence wrapped to the terminal; unchanged if the stream is not one."""
    if not stream.isatty():
        return text
    return textwrap.fill(text, shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[int] = (),
    wrapped: Iterable[int] = (),
    drop: Sequence[int] = (),
    hint: str = "",
) -> None:
    """Print a table, complete in a pipe; on a narrow terminal, columns are left out and named below the table.

    Args:
        headers: Names of the columns; on a narrow terminal they are broken after underscores.
        rows: Cells; None is shown as nothing.
        right: Columns that are aligned to the right, as numbers are.
        wrapped: Columns whose cells may take several lines; all others are never broken.
        drop: Columns that may be left out, in the order in which they go.
        hint: The command that shows all columns.
    """
    from orchestrator.cli.table import Column, fit_columns, render_plain, render_table

    cells = [["" if cell is None else _on_one_line(str(cell)) for cell in row] for row in rows]
    right, wrapped = set(right), set(wrapped)
    columns = [
        Column(_on_one_line(header), tuple(row[index] for row in cells), index in right, index in wrapped)
        for index, header in enumerate(headers)
    ]
    # A pipe gets every column: a program reads it, and it has no width.
    if not sys.stdout.isatty():
        print("\n".join(render_plain(columns)), flush=True)
        return
    shown = fit_columns(columns, drop, shutil.get_terminal_size().columns)
    print_rich(render_table(shown))
    kept = {column.name for column in shown}
    missing = [header for header in headers if header not in kept]
    if missing:
        print_text(f"No room here for {', '.join(missing)}{':' if hint else ''}")
        print_line(f"  {hint}")


def print_rich(renderable: RenderableType) -> None:
    """Print a rich renderable: in colour and as wide as the terminal, or plain and as wide as it needs."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False, width=shutil.get_terminal_size().columns).print(renderable)
        return
    # Into a string first, because rich pads every line with blanks to its width.
    text = io.StringIO()
    Console(file=text, width=_UNWRAPPED, highlight=False, color_system=None).print(renderable)
    for line in text.getvalue().splitlines():
        print(line.rstrip())
    sys.stdout.flush()


def print_next(steps: Mapping[str, str]) -> None:
    """Print commands to type next, given as arguments of this program -> what they do."""
    if not steps:
        return
    print_line("next:")
    width = max(len(arguments) for arguments in steps)
    lines = [f"  {program()} {arguments:{width}}  # {purpose}" for arguments, purpose in steps.items()]
    if sys.stdout.isatty() and max(map(len, lines)) > shutil.get_terminal_size().columns:
        # The purpose goes on the line above, because a wrapped command cannot be copied.
        lines = [f"  # {purpose}\n  {program()} {arguments}" for arguments, purpose in steps.items()]
    for line in lines:
        print_line(line)


def print_tracking_problem(sweep_id: str, problem: str | None) -> None:
    """Say why MLflow is incomplete and how to complete it, if there is a problem."""
    if problem:
        print_note(
            f"MLflow is incomplete ({problem}). When its store is back, complete it: {program()} browse {sweep_id}"
        )


def format_number(value: object, digits: int = 4) -> str:
    """Format a value for a cell: floats with this many significant digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def format_score(value: float | None) -> str:
    """Format a score in percent with two decimals."""
    return "" if value is None else f"{value:.2f}"


def _on_one_line(cell: str) -> str:
    return show_controls(cell).replace("\n", "\\n")


def _flatten(row: Row, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _finite(value: object) -> object:
    # json.dumps would write NaN, which is not JSON and which most readers refuse.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
