"""Find the folder for files that can be recreated, and let one process of a node make them while the others wait."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

# Some cluster file systems are mounted without locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/orchestrator``, by default ``~/.cache/orchestrator``; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "orchestrator"


@contextmanager
def making(place: Path) -> Iterator[None]:
    """Let only one process at a time make what is missing at ``place``; look again inside the block whether it is.

    The kernel releases the lock however its process ends. Where the file system has no locks, several processes may be
    in the block at once, so what they make must get its name only once it is complete.

    Raises:
        OSError: The folder of ``place`` cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    # No fallback to the mere existence of a file, whose owner may be dead.
    lock = FileLock(place.with_name(f".{place.name}.lock"), fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
