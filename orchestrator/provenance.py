"""Where a result comes from: commit, lock hash, data and weights hash, seeds, protocol, versions, host.

Commit and lock hash are those of the checkout that this package is installed from, or those written into the wheel when
it was built; never those of the current folder, which may be anybody's repository. Imported by ``hatch_build.py`` too,
hence the standard library only.
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan

UNKNOWN = "unknown"
BUILD_FILE = "_build.json"
LOCK_FILE = Path("requirements", "run.txt")
CLEAN = "none"
GUARDED_KEYS = ("commit", "changes", "lock_hash", "data_hash", "weights_hash")
"""What must not change between a sweep's start and its resume, unless it is allowed."""

_WORDS = {"changes": "the hash of uncommitted changes"}
_SOURCES = ("orchestrator", "training", "search_spaces", "requirements", "pyproject.toml")
_LIBRARIES = ("torch", "torchvision", "timm", "ray", "optuna", "mlflow")


def collect(plan: SweepPlan, identity: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what every run of a plan carries, as text.

    Args:
        plan: The sweep, training or promotion.
        identity: ``data_hash``, ``weights_hash`` and the like, as the prepared data or a ``TrainingRun`` gives them.
    """
    return {
        **read_build(),
        "data_hash": UNKNOWN,
        "weights_hash": UNKNOWN,
        **(identity or {}),
        **_seeds(plan),
        "recipe": str(plan.base["loop.recipe"]),
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "world_size": str(plan.resources.workers),
        **library_versions(),
        "host": platform.node(),
    }


def read_build(package: Path = Path(__file__).parent) -> dict[str, str]:
    """Return what :func:`describe_checkout` says of an installed package; ``unknown`` where neither checkout nor build
    does.
    """
    if (package.parent / ".git").exists():
        return describe_checkout(package.parent)
    try:
        written = json.loads((package / BUILD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    return {key: str(written.get(key, UNKNOWN)) for key in ("commit", "dirty", "changes", "lock_hash")}


def describe_checkout(root: Path) -> dict[str, str]:
    """Return of a checkout ``commit``, ``dirty`` (something that runs differs from it), ``changes`` (a hash of it) and
    ``lock_hash``.

    Two dirty states are two codes: that both are dirty says as little as that both are of one commit.
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
    return {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}}


def differences(recorded: Mapping[str, str], current: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return those of ``GUARDED_KEYS`` that are known on both sides and differ, each with its two values."""
    pairs = {key: (recorded.get(key, UNKNOWN), current.get(key, UNKNOWN)) for key in GUARDED_KEYS}
    return {key: pair for key, pair in pairs.items() if UNKNOWN not in pair and pair[0] != pair[1]}


def describe_differences(changed: Mapping[str, tuple[str, str]]) -> str:
    """Return what :func:`differences` found, in words."""
    return ", ".join(f"{_WORDS.get(key, key)} was {before} and is {now}" for key, (before, now) in changed.items())


def _hash_changes(root: Path) -> str:
    """Return a hash of all that runs and is not committed, new files included; ``none`` where
    there is nothing of it.
    """
    changed = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color", "--", *_SOURCES)
    added = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_SOURCES)
    if changed is None or added is None:
        return UNKNOWN
    if not changed and not added:
        return CLEAN
    digest = hashlib.sha256(changed.encode(errors="surrogateescape"))
    for name in filter(None, added.split("\0")):
        digest.update(f"\0{name}\0{_hash_file(root / name)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def _seeds(plan: SweepPlan) -> dict[str, str]:
    # Scenes are made, other datasets are split; each from a seed of its own.
    origin = "scene_seed" if plan.dataset == "digits" else "split_seed"
    keys = {origin: f"data.{origin}", "draw_seed": "data.draw_seed", "training_seed": "loop.seed"}
    return {name: str(plan.base[key]) for name, key in keys.items()}


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like, set inside a hook, would point git at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
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
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return UNKNOWN


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return UNKNOWN
