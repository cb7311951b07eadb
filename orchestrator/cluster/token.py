"""Finds, creates and protects Ray's auth token: anyone who has it can run code on the cluster."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from orchestrator import ray_compat
from orchestrator.errors import UserError


def token_file() -> Path:
    """Return the file that Ray reads its token from: ``$RAY_AUTH_TOKEN_PATH``, or the default in the user's home."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token() -> None:
    """Turn on token authentication in this process if there is a token and ``RAY_AUTH_MODE`` is not set."""
    if os.environ.get("RAY_AUTH_MODE") is None and (os.environ.get("RAY_AUTH_TOKEN") or token_file().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"
        # Ray read the variable when it was imported, which may have been before this line.
        ray_compat.reload_environment()


def ensure_token() -> Path:
    """Create the token if it does not exist, make it readable by its owner only, and return its file.

    Raises:
        UserError: The file cannot be created.
    """
    token = token_file()
    try:
        if not token.exists():
            _make_token(token)
        token.chmod(0o600)
    except OSError as error:
        setting = "RAY_AUTH_TOKEN_PATH to a file" if os.environ.get("RAY_AUTH_TOKEN_PATH") else "HOME to a folder"
        raise UserError(
            f"Cannot write Ray's token to {token} ({error.strerror}). Set {setting} that you can write."
        ) from None
    return token


def protect_token(*, make: bool) -> None:
    """Make the token readable by its owner only: Ray itself has written it with mode 644.

    Args:
        make: Create the token if it does not exist, before Ray does. A chmod after Ray has created it would come too
            late: others could read it in between.
    """
    token = token_file()
    is_elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if make and not is_elsewhere and os.environ.get("RAY_AUTH_MODE") != "disabled":
        with suppress(OSError):  # Ray tries again and reports the reason
            _make_token(token)
    with suppress(OSError):  # it does not exist or belongs to somebody else
        token.chmod(0o600)


def _make_token(token: Path) -> None:
    token.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp creates the file with mode 600, so it is never readable by others, not even for a moment.
    descriptor, draft = tempfile.mkstemp(dir=token.parent, prefix=".auth_token-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
        # Linked rather than renamed: if another driver creates the token at the same time, the first one stays, and
        # both drivers then read the same one.
        with suppress(FileExistsError):
            os.link(draft, token)
    finally:
        os.unlink(draft)
