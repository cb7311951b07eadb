"""Which files of a folder are images, by their names. Light: looked at before a model is loaded."""

from __future__ import annotations

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


def find_images(folder: Path) -> list[Path]:
    """Return every image below a folder, sorted.

    Raises:
        ValueError: There is no folder, or no image in it.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"DIR must be a folder of images, but got DIR={folder}, which {what}.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        others = f"{len(files)} file{'s' * (len(files) != 1)} of other kinds" if files else "nothing"
        raise ValueError(
            f"DIR must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), but got DIR={folder}, which holds {others}."
        )
    return images
