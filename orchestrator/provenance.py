"""Say which code produced a result: commit, uncommitted changes, lock file and library versions.

They describe the checkout that this package is installed from, or were written into the wheel when it was built. The
current folder is never used: it may be any repository. ``hatch_build.py`` runs this file by its path, before anything
is installed, so it imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"
BUILD_FILE = "_build.json"
LOCK_FILE = Path("requirements", "run.txt")
CLEAN = "none"
GUARDED_KEYS = ("commit", "changes", "lock_hash", "data_hash", "weights_hash", "scores_hash")
"""What may not change between a sweep's start and its resume, unless the user allows it."""

_WORDS = {"changes": "the hash of uncommitted changes"}
# What can change a result. Edited documents or tests do not make a run dirty.
_SOURCES = ("orchestrator", "training", "search_spaces", "requirements", "pyproject.toml")
LIBRARIES = ("torch", "torchvision", "timm", "ray", "optuna", "mlflow")


def read_build(package: Path = Path(__file__).parent) -> dict[str, str]:
    """Return :func:`describe_checkout` of an installed package, from its checkout or its build, or ``unknown``."""
    # A checkout is read each time, because it can change without a new installation.
    if (package.parent / ".git").exists():
        return describe_checkout(package.parent)
    try:
        written = json.loads((package / BUILD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    return {key: str(written.get(key, UNKNOWN)) for key in ("commit", "dirty", "changes", "lock_hash")}


def describe_checkout(root: Path) -> dict[str, str]:
    """Describe the code of a checkout.

    Returns:
        ``commit``; ``dirty``, whether any file that runs differs from it; ``changes``, a hash of those differences,
        since two dirty states of one commit are two different programs; and ``lock_hash``.
    """
    changes = _hash_changes(root)
    return {
        "commit": _git(root, "rev-parse", "HEAD") or UNKNOWN,
        "dirty": UNKNOWN if changes == UNKNOWN else str(changes != CLEAN).lower(),
        "changes": changes,
        "lock_hash": _hash_file(root / LOCK_FILE),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def differences(recorded: Mapping[str, str], current: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the ``GUARDED_KEYS`` that are known on both sides and differ, each with its two values."""
    # An unknown hash says nothing, so it cannot be a difference.
    pairs = {key: (recorded.get(key, UNKNOWN), current.get(key, UNKNOWN)) for key in GUARDED_KEYS}
    return {key: pair for key, pair in pairs.items() if UNKNOWN not in pair and pair[0] != pair[1]}


def describe_differences(changed: Mapping[str, tuple[str, str]]) -> str:
    """Return what :func:`differences` found as part of a sentence."""
    return ", ".join(f"{_WORDS.get(key, key)} was {before} and is {now}" for key, (before, now) in changed.items())


def _hash_changes(root: Path) -> str:
    """Return a hash of all uncommitted code, new files included; ``none`` if everything is committed."""
    changed = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color", "--", *_SOURCES)
    added = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_SOURCES)
    # git is missing or failed: that is not the same as a clean checkout.
    if changed is None or added is None:
        return UNKNOWN
    if not changed and not added:
        return CLEAN
    digest = hashlib.sha256(changed.encode(errors="surrogateescape"))
    # New files are not part of the diff, but Python imports them anyway.
    for name in filter(None, added.split("\0")):
        digest.update(f"\0{name}\0{_hash_file(root / name)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> str | None:
    # Inside a git hook, GIT_DIR and similar variables would point git at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            # Without locks, so that looking at a checkout never gets in the way of a git command of the user's.
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _hash_file(path: Path) -> str:
    try:
        # A prefix is enough to distinguish two files, and fits into a tag or a table.
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return UNKNOWN


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return UNKNOWN
