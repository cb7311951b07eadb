"""Find the folder for files that can be recreated."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/orchestrator``, by default ``~/.cache/orchestrator``; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "orchestrator"
