"""Write text as Markdown that MLflow shows: text of others stays text, whatever it contains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from orchestrator.redaction import redact
from orchestrator.terminal_text import show_controls

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")
_CODE = re.compile(r"`([^`]+)`")
_FENCE = "```"


def escape(text: str) -> str:
    """Return a text of one line as Markdown that shows it as it is, without passwords and control characters."""
    return " ".join(_escape(text).split())


def _escape(text: str) -> str:
    plain = show_controls(redact(text))
    # Before the backslashes: an entity must not be taken apart.
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def code(text: str) -> str:
    """Return a text of one line as code."""
    # Nothing can be escaped within code, so what would end it is replaced.
    return f"`{' '.join(show_controls(redact(text)).split()).replace('`', chr(39))}`"


def mark(text: str) -> str:
    """Return a sentence, in which nothing but code between backticks is markup."""
    parts = _CODE.split(text)
    return "".join(code(part) if number % 2 else _escape(part) for number, part in enumerate(parts))


def block(lines: Iterable[str]) -> str:
    """Return lines as a block of code, without passwords and control characters."""
    text = show_controls(redact("\n".join(lines))).replace(_FENCE, "'''")
    return f"{_FENCE}\n{text}\n{_FENCE}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown; the columns after the first are aligned to the right."""
    lines = [headers, [":---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
