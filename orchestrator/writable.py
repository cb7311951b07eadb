"""What a run must be able to write, looked at before anything is started, so that a mistake leaves nothing behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.home import HOME_VARIABLE, home
from training.cache import cache_dir


def require_writable(address: str | None) -> None:
    """Check all that a driver writes outside the sweep's own folder.

    Args:
        address: Of a Ray cluster; None means that Ray is started here, and writes here.

    Raises:
        UserError: Something cannot be written; the message says what, why, and which variable moves it.
    """
    _require("home", home(), HOME_VARIABLE)
    require_writable_cache()
    if address is None:
        _require("Ray's folder for temporary files", _ray_temp_dir(), "RAY_TMPDIR")
        if not _has_ray_token():
            _require("Ray's folder for its token", _ray_token().parent, "HOME")


def require_writable_cache() -> None:
    """Check the cache.

    Raises:
        UserError: It cannot be written.
    """
    _require("cache", cache_dir(), "XDG_CACHE_HOME")


def find_obstacle(folder: Path) -> str | None:
    """Return why nothing can be written into a folder, or into the one that it would be made in; None if it can."""
    try:
        nearest = folder
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _require(subject: str, folder: Path, variable: str) -> None:
    obstacle = find_obstacle(folder)
    if obstacle is not None:
        raise UserError(
            f"{subject} must be a folder that can be written, but got {folder} ({obstacle}). Set {variable} to one "
            f"that can."
        )


def _ray_temp_dir() -> Path:
    # As Ray does it.
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def _has_ray_token() -> bool:
    """Return whether Ray finds its token, or needs none; else it makes one."""
    if (
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or os.environ.get("RAY_AUTH_MODE") == "disabled"
    ):
        return True
    try:
        return bool(_ray_token().read_bytes())
    except OSError:
        return False


def _ray_token() -> Path:
    return Path.home() / ".ray" / "auth_token"
