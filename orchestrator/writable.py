"""Checks that a run can write what it needs, before anything starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.home import HOME_VARIABLE, home
from training.cache import cache_dir

_MAX_BASE = 27
"""Characters that a socket's path of at most 107 leaves to the folder in which that of a local Ray is created."""


def require_writable(address: str | None) -> None:
    """Check all folders outside the sweep's own that a driver writes to.

    Args:
        address: Address of a Ray cluster; None means that Ray starts on this machine and also writes here.

    Raises:
        UserError: A folder cannot be written; the message says which, why, and which variable moves it.
    """
    require_writable_home()
    require_writable_cache()
    # On a cluster, those folders belong to the nodes, and `doctor --address` checks them.
    if address is None:
        _require("Ray's folder for temporary files", ray_base_dir(), "RAY_TMPDIR")
        if not _has_ray_token():
            _require("Ray's folder for its token", _ray_token().parent, "HOME")


def ray_base_dir() -> Path:
    """Return the folder for temporary files in which the folders of local Rays are created."""
    # The same order as in Ray, whose sockets need a short path, however.
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(base if len(os.path.abspath(base)) <= _MAX_BASE else "/tmp")


def require_writable_home() -> None:
    """Check the home.

    Raises:
        UserError: It cannot be written.
    """
    _require("The home", home(), HOME_VARIABLE)


def require_writable_cache() -> None:
    """Check the folder of the cache.

    Raises:
        UserError: It cannot be written.
    """
    _require("The cache", cache_dir(), "XDG_CACHE_HOME")


def find_obstacle(folder: Path) -> str | None:
    """Return why a folder, or the folder in which it would be created, cannot be written; None if it can."""
    try:
        # If the folder itself does not exist yet, its nearest existing parent decides.
        nearest = folder
        while not nearest.exists():
            nearest = nearest.parent
        # Check by writing: permission bits say nothing about a full or read-only file system.
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _require(subject: str, folder: Path, variable: str) -> None:
    obstacle = find_obstacle(folder)
    if obstacle is not None:
        raise UserError(f"{subject} cannot be written: {folder} ({obstacle}). Set {variable} to a writable folder.")


def _has_ray_token() -> bool:
    """Return whether Ray has its token or does not need one; if not, it writes one."""
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
