"""Make text harmless to a terminal: names and messages of others may hold its control sequences."""

from __future__ import annotations

import re

# C0 and C1 without tab and line feed, and the marks that reverse the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def show_controls(text: str) -> str:
    r"""Return a text with its control characters written as codes: ``\x1b`` for the one that begins an escape."""
    return _CONTROLS.sub(_code, text)


def one_line(name: str) -> str:
    r"""Return a name for the middle of a line, like :func:`show_controls`; line breaks become ``\n``, tabs ``\t``."""
    return show_controls(name).replace("\n", "\\n").replace("\t", "\\t")


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
