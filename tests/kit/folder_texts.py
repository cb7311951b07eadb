"""Folders of label tables, written as texts, for tests of your own data."""

from __future__ import annotations

from pathlib import Path

from training.data.sources.annotations import Annotations


def faults(annotations: Annotations) -> list[str]:
    """Return the faults as they are shown."""
    return [str(fault) for fault in annotations.faults]


def write(folder: Path, **texts: str) -> Path:
    """Write files into a folder: the name of each with ``_`` for its dot, and its text."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder
