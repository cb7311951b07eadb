"""Write files that are complete as soon as they exist, and open a folder or URI as a file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pyarrow import fs

PARTIAL = ".partial"
"""Suffix of a file that is still being written."""


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing under another name; it gets its own once it is complete and on disk.

    If the writer fails, nothing is left; if it is killed, only the partial file is left, and the next attempt
    overwrites it.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            # Renaming first could, after a power failure, leave an empty file under the final name.
            os.fsync(file.fileno())
        os.replace(partial, path)
    # Not on Ctrl-C or SystemExit: those are treated like a kill, and the next attempt overwrites the partial file.
    except Exception:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees all of it or none, even after a power failure.

    Raises:
        OSError: It cannot be written.
    """
    with open_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    # The new name is an entry of the folder, which has to reach the disk as well as the file.
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_location(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a folder or of a URI such as ``s3://bucket/path``, and the path in it.

    Raises:
        ValueError, NotImplementedError: No such kind of URI.
        OSError: It cannot be reached.
    """
    from pyarrow import fs  # takes a while to import, and most users of this module write local files

    if "://" in uri:
        system, path = fs.FileSystem.from_uri(uri)
        return system, path
    return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
