"""Joins and splits URIs, and keeps credentials out of those that are stored."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import UserError
from orchestrator.redaction import redact

_WHERE_TO_PUT_THEM = (
    "Put them into the environment of every node (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
)


# Schemes of storage followed by one slash or none, or by slashes without a colon.
_ALMOST_URI = re.compile(r"(s3|s3a|gs|gcs|hdfs|abfss?|az|file)(?::(?!//)/?|//)", re.IGNORECASE)


def join_uri(uri: str, *names: str) -> str:
    """Join names to a folder or URI; the part after a ``?`` stays at the end."""
    if "://" not in uri:
        return os.path.join(uri, *names)
    # A query may carry options of a filesystem (endpoint_override, say), which apply to every place below.
    place, mark, query = uri.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def split_uri(uri: str) -> tuple[str, str]:
    """Split a folder or URI into its parent and its last name."""
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    parent, _, name = place.rstrip("/").rpartition("/")
    return (parent or "/") + mark + query, name


def absolute_uri(uri: str) -> str:
    """Return a folder as an absolute path, and a URI unchanged."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def require_safe_uri(option: str, uri: str | None) -> None:
    """Check a folder or URI that plans and journals will show.

    Raises:
        UserError: It contains a user name, a password or a key, or looks like a URI and is none.
    """
    if uri is None:
        return
    if mistyped := _ALMOST_URI.match(uri):
        # Without the rest of it, which may hold a key.
        scheme, start = mistyped[1].lower(), mistyped[0]
        raise UserError(
            f"{option} begins with {start!r}, which names a folder here and not a URI. A URI begins with {scheme}://; "
            f"for a folder of that name, begin with ./{start}"
        )
    if "://" not in uri:
        return
    # urlsplit alone is not enough: a key may contain a slash, after which it no longer sees a user name.
    if redact(uri) != uri or urlsplit(uri).username:
        raise UserError(
            f"{option} must not contain credentials, but got {option}={redact(uri)}: plans and journals would show "
            f"them. {_WHERE_TO_PUT_THEM}"
        )


def require_text_without_credentials(file: str, text: str, shown_by: str) -> None:
    """Check a text that is stored or sent unchanged.

    Args:
        file: Its name, for the message.
        text: Its content.
        shown_by: What would show the credentials, for example ``plans and journals``.

    Raises:
        UserError: A line has a URI with credentials, or a secret that is also in this process's environment.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if redact(line) != line:
            raise UserError(
                f"{file}:{number}: this line contains credentials, which {shown_by} would show: "
                f"{redact(line).strip()}. {_WHERE_TO_PUT_THEM}"
            )
