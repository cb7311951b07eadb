"""Let only one process at a time promote a sweep, from its final runs to the registry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import UserError
from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.sweep_folder.holder import describe_holder, encode, read_holder, this_process
from orchestrator.writable import require_writable_home

_LOCK_FILE = "promotion.lock"


@contextmanager
def promoting(sweep_id: str) -> Iterator[None]:
    """Keep others from promoting the same sweep inside the block.

    Two promotions at once would not find each other's final runs, train both, and be compared with each other. The
    system releases the lock when its process dies.

    Raises:
        UserError: Another process is promoting it, or the home cannot be written.
    """
    require_writable_home()
    folder = sweep_dir(sweep_id)
    path = folder / _LOCK_FILE if folder.is_dir() else sweeps_dir() / f".{sweep_id}.{_LOCK_FILE}"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{sweep_id} is already being promoted by {_describe_owner(path)}. Watch it with `orchestrator status`. "
            f"Once it has ended, the same command shows its result, or continues it."
        ) from None
    try:
        path.write_bytes(encode(this_process(time.time())))
        yield
    finally:
        lock.release()


def _describe_owner(path: Path) -> str:
    owner = read_holder(path.read_bytes())
    # The file may still name the owner before.
    return describe_holder(owner) if owner is not None and owner.is_alive(time.time()) else "another process"
