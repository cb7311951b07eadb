"""Let only one process write a store: with a file lock on disks, with a heartbeat object on S3 and similar storage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from training.cache import NO_LOCKS
from training.data.store.file_names import LOCK
from training.data.store.storage import Storage
from training.errors import StoreError
from training.machine import identify_process, is_alive, is_here

STALE_S = 600.0
"""A writer on another host whose heartbeat is older than this is considered dead."""
# Far more often than STALE_S suggests, because the writer beats only between two shards, each of which may take
# minutes.
_BEAT_S = 30.0
_SETTLE_S = 1.0


@contextmanager
def writer_lock(storage: Storage) -> Iterator[Callable[[], None]]:
    """Become the only writer of a store.

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
            stack.enter_context(_locked(storage.folder))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield stack.enter_context(_beating(storage))
        else:
            yield lambda: None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the kernel's lock, which is released however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    # No fallback to the mere existence of a file, whose owner may be dead: then the heartbeat takes over.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise _refusal(str(folder), _read(Storage(str(folder)))) from None
    try:
        path.write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        # Before the release, so that a writer that has opened this file in the meantime finds it gone and starts over.
        path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _beating(storage: Storage) -> Iterator[Callable[[], None]]:
    """Hold an object that names the writer and is rewritten every 30 s."""
    other = _read(storage)
    if other and _alive(other):
        raise _refusal(storage.uri, other)
    mine = {**_myself(), "token": secrets.token_hex(8)}
    storage.put(LOCK, json.dumps({**mine, "beat": time.time()}).encode())
    time.sleep(_SETTLE_S)  # if two start together, the later object remains, and the other writer notices
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
    return {**identify_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}


def _alive(other: dict[str, Any]) -> bool:
    # On this host the process itself can be checked, so that a killed writer delays nobody for ten minutes.
    pid, started = other.get("pid"), other.get("pid_started")
    is_ours = is_here(str(other.get("host")), str(other.get("machine", "")))
    if is_ours and isinstance(pid, int) and isinstance(started, float):
        return is_alive(pid, started, other.get("ticks", 0))
    beat = other.get("beat")
    return isinstance(beat, int | float) and time.time() - beat < STALE_S


def _read(storage: Storage) -> dict[str, Any]:
    try:
        return _parse(storage.read(LOCK))
    except FileNotFoundError:
        return {}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}  # its owner has not written it yet
    return owner if isinstance(owner, dict) else {}


def _refusal(where: str, owner: dict[str, Any]) -> StoreError:
    who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if "pid" in owner else "another process"
    return StoreError(f"{where} is already being written by {who}. Wait until it is done, or stop it")
