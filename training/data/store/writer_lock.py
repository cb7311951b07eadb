"""Let only one process write a store: by a file lock on disks, by a heartbeat object on S3 and the like."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from training.data.store.file_names import LOCK
from training.data.store.storage import Storage
from training.errors import StoreError

STALE_S = 600.0
"""A writer on another host whose heartbeat is older than this is considered dead."""
_BEAT_S = 30.0
_SETTLE_S = 1.0
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def writer_lock(storage: Storage) -> Iterator[Callable[[], None]]:
    """Be the only writer of a store.

    Yields:
        A function to call every few seconds: it keeps the lock, and raises StoreError if another process took it.

    Raises:
        StoreError: Another process is writing; the message names it.
        OSError: The storage cannot be written.
    """
    with ExitStack() as stack:
        if storage.folder is None:
            yield stack.enter_context(_beating(storage))
            return
        try:
            stack.enter_context(_flocked(storage.folder))
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            yield stack.enter_context(_beating(storage))  # some cluster file systems are mounted without locks
        else:
            yield lambda: None


@contextmanager
def _flocked(folder: Path) -> Iterator[None]:
    """Hold the kernel's lock, which ends with the process however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # From the open file, not by its name: its owner may finish and delete it right now.
            owner = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise _refusal(str(folder), _parse(owner)) from None
            raise
        if _same_file(descriptor, path):
            break
        os.close(descriptor)  # its owner deleted it between our open and our lock
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def _beating(storage: Storage) -> Iterator[Callable[[], None]]:
    """Hold an object that names the writer and is rewritten every 30 s."""
    other = _read(storage)
    if other and _alive(other):
        raise _refusal(storage.uri, other)
    mine = {**_myself(), "token": secrets.token_hex(8)}
    storage.put(LOCK, json.dumps({**mine, "beat": time.time()}).encode())
    time.sleep(_SETTLE_S)  # if two start together, the later object stays, and the other writer sees that
    last = time.monotonic()

    def beat(at_once: bool = False) -> None:
        nonlocal last
        if not at_once and time.monotonic() - last < _BEAT_S:
            return
        owner = _read(storage)
        if owner.get("token") != mine["token"]:
            raise _refusal(storage.uri, owner)
        storage.put(LOCK, json.dumps({**mine, "beat": time.time()}).encode())
        last = time.monotonic()

    beat(at_once=True)
    try:
        yield beat
    finally:
        if _read(storage).get("token") == mine["token"]:
            storage.delete(LOCK)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}


def _alive(other: dict[str, Any]) -> bool:
    if other.get("host") == socket.gethostname():
        try:
            os.kill(int(other["pid"]), 0)
        except ProcessLookupError:
            return False
        except (PermissionError, ValueError):
            pass
    return time.time() - float(other.get("beat", 0)) < STALE_S


def _read(storage: Storage) -> dict[str, Any]:
    try:
        return _parse(storage.read(LOCK))
    except FileNotFoundError:
        return {}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}  # its owner has not written it yet
    return owner if isinstance(owner, dict) else {}


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _refusal(where: str, owner: dict[str, Any]) -> StoreError:
    who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if "pid" in owner else "another process"
    return StoreError(f"{where} is already being written by {who}. Wait until it is done, or stop it")
