"""Keep finished work in a file, one line of JSON each, so that a kill loses none of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none if there is no file; lines that a kill cut short are left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a file."""
    # One write to a file opened for appending: lines of two processes do not mix.
    text = json.dumps(line) + "\n"
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        text = "\n" + text  # ends the line that a kill cut short, which readers then leave out
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
