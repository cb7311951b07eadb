"""Name the files of a store, and recognise a folder that holds one. Imports only the standard library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

MANIFEST = "manifest.json"
"""Written last: a store without it is unfinished and does not open."""
LOCK = "writer.lock"
"""Held while a store is written; it outlives a writer that was killed."""
DONE = ".done.json"
"""Ending of the note next to a complete shard, until the store is finished."""
_PHASE = "(train|val|test)"
_SHARD_OR_LABELS = rf"{_PHASE}-labels\.parquet|{_PHASE}-\d{{5,}}(\.arrow|\.originals\.arrow|\.done\.json)"
_OURS = re.compile(rf"(manifest\.json|{_SHARD_OR_LABELS})(\.partial)?")
# "manifest.json" alone proves nothing: browser extensions, web apps and data releases also have one.
_TELLING = re.compile(rf"({_SHARD_OR_LABELS})(\.partial)?|manifest\.json\.partial|writer\.lock")
# A folder full of other people's data may hold a huge manifest.json; the one of COCO's store takes 0.3 MB.
_LARGEST_MANIFEST_BYTES = 64 << 20


def labels_name(phase: str) -> str:
    """Return the name of the label file of a phase."""
    return f"{phase}-labels.parquet"


def shard_name(phase: str, number: int, *, originals: bool = False) -> str:
    """Return the name of a shard of images, or of the shard of their originals."""
    return f"{phase}-{number:05d}{'.originals' if originals else ''}.arrow"


def is_ours(name: str) -> bool:
    """Return whether a store may write and delete a file with this name; other files in its folder are left alone."""
    return _OURS.fullmatch(name) is not None


def is_telling(names: Iterable[str]) -> bool:
    """Return whether any of these file names occurs only in stores, finished or not."""
    return any(_TELLING.fullmatch(name) for name in names)


def is_manifest(content: str | bytes) -> bool:
    """Return whether a ``manifest.json`` is that of a store, of any version, rather than some other program's."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and raw.keys() >= {"schema_version", "data_hash"}


def holds_store(folder: Path) -> bool:
    """Return whether a local folder holds a store, finished or not; a folder that cannot be read holds none."""
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        if is_telling(names):
            return True
        manifest = folder / MANIFEST
        return (
            MANIFEST in names
            and manifest.stat().st_size <= _LARGEST_MANIFEST_BYTES
            and is_manifest(manifest.read_bytes())
        )
    except OSError:
        return False
