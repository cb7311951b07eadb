"""Places by URI: how they are put together, and that none of them carries a password."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import UserError
from orchestrator.redaction import redact

_SECRET_KEY = re.compile(r"(?i)(^|[&_])([a-z_]*(secret|password|token|sas|access_key|account_key)[a-z_]*)=")


def join_uri(uri: str, *names: str) -> str:
    """Return the place of these names below a folder or URI; what stands behind a ``?`` stays at the end."""
    if "://" not in uri:
        return os.path.join(uri, *names)
    place, mark, query = uri.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def split_uri(uri: str) -> tuple[str, str]:
    """Return the parent of a folder or URI, and its last name."""
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    parent, _, name = place.rstrip("/").rpartition("/")
    return (parent or "/") + mark + query, name


def absolute_uri(uri: str) -> str:
    """Return a folder by its whole path, and a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def require_no_credentials(option: str, uri: str | None) -> None:
    """Check a URI that goes into plans and journals.

    Raises:
        UserError: It holds a user name, a password or a key.
    """
    if uri is None or "://" not in uri:
        return
    # A key may hold a slash, and what follows is then no part of the host to the standard's eyes.
    if redact(uri) != uri or urlsplit(uri).username or _SECRET_KEY.search(urlsplit(uri).query):
        raise UserError(
            f"{option} must hold no credentials, but got {option}={redact(uri)}: plans and journals would show them. "
            f"Put them into the environment of every node (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )


def require_text_without_credentials(file: str, text: str, told_by: str) -> None:
    """Check a text that is kept or sent as it is.

    Args:
        file: Where it is from, for people.
        text: Of the file.
        told_by: Who would show them: ``plans and journals``, say.

    Raises:
        UserError: A line holds a user name, a password or a key in a URI, or one that is in this process's environment.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if redact(line) != line:
            raise UserError(
                f"{file}:{number}: a line must hold no credentials, but got {redact(line).strip()}: {told_by} would "
                f"show them. "
                f"Put them into the environment of every node (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
            )
