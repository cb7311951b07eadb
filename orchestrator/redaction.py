"""Keeps passwords off the terminal and out of files."""

from __future__ import annotations

import os
import re

# Greedy: a password may hold an @ itself, and a secret key a slash; but host:5000/path@x has neither.
_CREDENTIALS = re.compile(r"//(?:([^/\s:@]+:)(?!\d+/)[^\s]+@|([^/\s:@]+:)?[^/\s]+@)")
_PARAMETERS = re.compile(
    r"(?i)([?&][a-z_]*(?:secret|password|token|sas|access_key|account_key|signature)[a-z_]*=)[^&\s'\"]+"
)
_SECRET_NAME = re.compile(r"(?i)(secret|password|token|passwd|access_key)(_?(id|key))?$")
_MIN_SECRET = 8  # shorter, and it might be a word of the text
_MAX_TEXT = 300


def redact(text: str) -> str:
    """Return a text with the passwords of its URIs as ``***``; a lone word before the ``@`` may be a token, and goes as
    well.

    So do the passwords and keys that this process was given by its environment, wherever they stand.
    """
    for name, value in os.environ.items():
        if len(value) >= _MIN_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = _CREDENTIALS.sub(lambda match: f"//{match[1] or match[2] or ''}***@", text)
    return _PARAMETERS.sub(r"\1***", text)


def describe_error(error: BaseException) -> str:
    """Return an error's type and first line, without passwords."""
    lines = str(error).strip().splitlines() or [""]
    # In this order: a password that is cut behind loses the @ by which it is known.
    return redact(f"{type(error).__name__}: {lines[0]}")[:_MAX_TEXT]
