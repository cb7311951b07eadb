"""Find the image files of a folder by their names; imports nothing heavy, so it can run before a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


def is_mac_twin(name: str) -> bool:
    """Return whether a file or folder is one that a Mac adds on disks and in archives of other systems.

    It holds no image, although ``._photo.jpg`` is called like one.
    """
    return name.startswith("._") or name == "__MACOSX"


def utf8_name(name: str | Path) -> str:
    r"""Return a file's name as a table can hold it: bytes that are not UTF-8 are written as codes (``\xff``)."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_images(folder: Path) -> list[Path]:
    """Return every image below a folder, sorted; what only a Mac put there is passed over.

    Raises:
        ValueError: The folder does not exist, is a file, or holds no image.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"DIR must be a folder of images, but got DIR={folder}, which {what}.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(is_mac_twin, path.relative_to(folder).parts))
    )
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        others = f"holds only {len(files)} other file{'s' * (len(files) != 1)}" if files else "is empty"
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(
            f"DIR must be a folder of images, but got DIR={folder}, which {others}. Images end in {suffixes}."
        )
    return images
