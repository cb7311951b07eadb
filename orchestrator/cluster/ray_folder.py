"""Gives every local Ray a folder of its own that only its user can enter, and removes those of dead drivers.

Ray itself puts its sessions into one folder that everybody may read and write, and never removes them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from orchestrator.writable import ray_base_dir

_PREFIX = "spml-"


class RayFolder:
    """A new folder for one Ray; a lock on it says that its driver lives.

    The system releases the lock when the process ends, however it ends, so a driver that was killed at any moment
    leaves a folder that the next driver of this user recognises and removes.

    Attributes:
        path: Where Ray writes. It is inside the private folder, because Ray opens its own to everybody.
    """

    def __init__(self) -> None:
        base = ray_base_dir()
        base.mkdir(parents=True, exist_ok=True)
        while True:
            # mkdtemp creates it with mode 700. The name is short, because Ray's sockets are inside, and the path of a
            # socket has at most 107 characters.
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            lock = _lock(self._folder)
            # Another driver may have taken it for a dead one in between.
            if lock is not None and self._folder.exists():
                break
        self._lock = lock
        self.path = self._folder / "r"

    def remove(self) -> None:
        """Remove the folder; call it once Ray has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def remove_dead_folders() -> None:
    """Remove the folders of this user's drivers that are dead."""
    for folder in ray_base_dir().glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; return None if another one has locked it, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
