"""Look at a page as a user's browser shows it: Debian's Chromium, without a window and without a driver."""

from __future__ import annotations

import shutil
import subprocess
import tempfile

import pytest

_TIMEOUT_S = 120.0
_BUDGET_MS = 30_000
"""Virtual time: it stands still while a page waits for its server, so a loaded machine needs no more of it."""


def require_chromium() -> str:
    """Return Chromium's command, or skip the test."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    return found


def read_page(address: str, *, width: int = 1700, height: int = 900) -> str:
    """Return the HTML of a page once its scripts are done."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        command = [
            require_chromium(),
            "--headless=new",
            "--no-sandbox",  # which needs privileges that a container lacks
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--virtual-time-budget={_BUDGET_MS}",
            "--dump-dom",
            address,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout
