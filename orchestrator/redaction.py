"""Removes passwords and keys from texts before they are printed or stored."""

from __future__ import annotations

import os
import re

from orchestrator.errors import OrchestratorError, UserError
from training.errors import first_line

# Greedy, because a password may contain an @ and a secret key a slash. The lookahead spares host:5000/path@x.
_CREDENTIALS = re.compile(r"//(?:([^/\s:@]+:)(?!\d+/)[^\s]+@|([^/\s:@]+:)?[^/\s]+@)")
_SECRET_WORD = r"(?:secret|passw(?:or)?d|token|signature|credential|(?:access|account|api|storage|shared)[-_]?key)"
# Azure signs with `sig`, S3 with `X-Amz-Signature`; a connection string has `;AccountKey=` and the like.
_PARAMETERS = re.compile(
    rf"(?i)((?:^|[?&;,\s'\"(])(?:[\w.-]*{_SECRET_WORD}[\w.-]*|(?:[\w.-]*[-_.])?(?:sig|sas|pwd))=)[^&;\s'\"]*[^&;\s'\".,:)]"
)
_SECRET_NAME = re.compile(rf"(?i)({_SECRET_WORD}|_sas|connection_?string)(_?(id|key))?$")
_MIN_SECRET = 8  # a shorter value might be an ordinary word of the text
_MAX_TEXT = 300


def redact(text: str) -> str:
    """Replace the passwords in a text by ``***``.

    That is everything before the ``@`` of a URI except its user name (without a colon it may be a token), the values of
    parameters that sound secret, and every password or key in this process's environment.
    """
    # A library may put a secret into its message in any form, not only in a URI.
    for name, value in os.environ.items():
        if len(value) >= _MIN_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = _CREDENTIALS.sub(lambda match: f"//{match[1] or match[2] or ''}***@", text)
    return _PARAMETERS.sub(r"\1***", text)


def describe_error(error: BaseException) -> str:
    """Return the first line of an error, without passwords, and its type unless the error is one of ours."""
    if isinstance(error, UserError | OrchestratorError):
        return redact(first_line(error))
    kind = type(error).__name__
    # Redact first: a truncated password loses the @ by which it is recognised.
    return redact(f"{kind}: {first_line(error)}" if str(error).strip() else kind)[:_MAX_TEXT]
