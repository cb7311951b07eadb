"""Stores written from a small source, for tests of writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.sources.annotations import Annotations
from training.data.store.manifest import Manifest
from training.data.store.writer import write_store


def write(source: Annotations, out: Path, **options: Any) -> Manifest:
    """Write a source as a store of 16 px, with two workers."""
    return write_store(source, str(out), **{"image_size": 16, "workers": 2} | options)


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def break_file(source: Annotations, file: str) -> None:
    """Cut a picture short."""
    path = source.root / file
    path.write_bytes(path.read_bytes()[:200])
