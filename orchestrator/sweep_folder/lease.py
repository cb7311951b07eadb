"""Let only one driver at a time write a sweep's journal.

The driver renews its lease every 10 s. On its own host, a lease is free as soon as its process is dead. Another host
cannot see whether that process is alive: for it, the lease is free 60 s after the last renewal, or when it is taken by
force. A driver that comes back after a sleep or a network failure finds the new holder and stops writing. The clocks
of the hosts must agree to within a few seconds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import psutil
from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError
from training.machine import is_alive

LEASE_FILE = "lease.json"
RENEW_S = 10.0
# Several renewals may fail: a short outage of a shared file system must not cost the lease.
EXPIRES_S = 60.0
_WIDTH = 512  # a renewal overwrites the one before in one call: readers see a complete one, even on a full disk
_MAX_PID, _MAX_S = 2**31, 1e12
Clock = Callable[[], float]


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease; its start time distinguishes it from a later process with the same pid.

    Attributes:
        renewed: Unix time in s of the last renewal, by its host's clock.
    """

    host: str
    pid: int
    pid_started: float
    renewed: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether it runs or ran on this host."""
        return self.host == socket.gethostname()

    def is_alive(self, now: float) -> bool:
        """Return whether it is running or, on another host, whether it has renewed its lease recently."""
        if not self.is_here:
            return now - self.renewed < EXPIRES_S
        return is_alive(self.pid, self.pid_started)

    def is_same(self, other: Holder | None) -> bool:
        """Return whether both are the same process."""
        return other is not None and replace(other, renewed=self.renewed) == self


class TakenError(Exception):
    """Another process has become the holder; ``holder`` is None if that process has since released it."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(holder)
        self.holder = holder


class HolderRecord(Protocol):
    """The place that records who may write something."""

    def read(self) -> Holder | None:
        """Return the holder, dead or alive, or None."""

    def write(self, holder: Holder) -> None:
        """Write the holder."""

    def clear(self) -> None:
        """Record that there is no holder."""

    def locked(self) -> AbstractContextManager[object]:
        """Keep others from reading and writing at the same time, if the place supports it."""


class Claim:
    """The claim of this process to be the only writer of something.

    Args:
        record: Says who the writer is; may be replaced, for instance after a reconnect.
        clock: Unix time in s.
    """

    def __init__(self, record: HolderRecord, clock: Clock = time.time) -> None:
        self.record = record
        self._clock = clock
        self._holder: Holder | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process has become the holder."""
        return self._holder is not None

    @property
    def age_s(self) -> float:
        """Seconds since the last renewal."""
        assert self._holder is not None
        return self._clock() - self._holder.renewed

    def check(self, refuse: Callable[[Holder], None]) -> None:
        """Call ``refuse`` with the living holder, if there is one."""
        found = self.record.read()
        if found is not None and found.is_alive(self._clock()):
            refuse(found)

    def take(self, refuse: Callable[[Holder], None]) -> None:
        """Become the holder, unless ``refuse`` raises for the living one."""
        # Of two processes that find the same dead holder, only one may read and write at a time.
        with self.record.locked():
            self.check(refuse)
            self._write()

    def renew(self) -> None:
        """Show that this process is alive.

        Raises:
            TakenError: Another process is now the holder.
        """
        assert self._holder is not None
        with self.record.locked():
            found = self.record.read()
            if not self._holder.is_same(found):
                raise TakenError(found)
            self._write()

    def release(self) -> None:
        """Release it, if it is still ours."""
        assert self._holder is not None
        with self.record.locked():
            if self._holder.is_same(self.record.read()):
                self.record.clear()

    def _write(self) -> None:
        holder = this_process(self._clock())
        self.record.write(holder)
        self._holder = holder


class Lease:
    """The right to write a sweep's journal, from construction until it is released or this process ends.

    A thread renews it while it is entered as a context manager.

    Args:
        folder: The sweep's.
        steal: Take it from a driver on another host that may still be alive; a driver on this host can be stopped.
        clock: Unix time in s.
        renew_s: Seconds between two renewals.

    Raises:
        UserError: Another living driver holds it.
        OrchestratorError: Its file cannot be read.
    """

    def __init__(
        self, folder: Path, *, steal: bool = False, clock: Clock = time.time, renew_s: float = RENEW_S
    ) -> None:
        def refuse(holder: Holder) -> None:
            if holder.is_here or not steal:
                raise UserError(_held(folder.name, holder))

        self._renew_s = renew_s
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._lost: str | None = None
        self._claim = Claim(_LeaseFile(folder / LEASE_FILE), clock)
        _read(folder / LEASE_FILE)  # before its lock, which cannot say what is wrong with the file
        self._claim.take(refuse)

    def require(self) -> None:
        """Check that it is still ours before something is written.

        Reads the file only if a renewal was missed, because this is called for every event.

        Raises:
            OrchestratorError: Another driver has taken it.
        """
        if self._lost is None and self._claim.age_s > 2 * self._renew_s:
            self.renew()
        if self._lost is not None:
            raise OrchestratorError(
                f"This driver has lost the sweep: {self._lost} has taken it over. This driver writes nothing more."
            )

    def lose(self, taker: str) -> None:
        """Record that another driver continues the sweep when the file does not show it."""
        # Keep the first one: later ones may be its successors.
        self._lost = self._lost or taker

    def renew(self) -> None:
        """Show that this process is alive, unless another one has taken the lease."""
        try:
            # A short file system outage must not end a sweep; the next renewal tries again.
            with suppress(OSError):
                self._claim.renew()
        except TakenError as error:
            found = error.holder
            self._lost = f"process {found.pid} on {found.host}" if found else "a driver that has since released it"

    def release(self) -> None:
        """Release the lease, if it is still ours."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        self._claim.release()

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _keep_renewing(self) -> None:
        while not self._released.wait(self._renew_s):
            self.renew()


class _LeaseFile:
    """The record of a lease, in a file that is locked while it is read and written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Holder | None:
        return _read(self._path)

    def write(self, holder: Holder) -> None:
        # In place and not by renaming, because the lock is on this file.
        with self._path.open("r+b", buffering=0) as file:
            file.write(json.dumps(asdict(holder)).ljust(_WIDTH).encode())

    def clear(self) -> None:
        # Emptied and not deleted, because another process may be waiting for the lock on it.
        os.truncate(self._path, 0)

    def locked(self) -> AbstractContextManager[object]:
        return FileLock(self._path)


def find_holder(folder: Path, clock: Clock = time.time) -> Holder | None:
    """Return the living driver that holds the lease of the sweep in this folder, or None."""
    holder = _read(folder / LEASE_FILE)
    return holder if holder is not None and holder.is_alive(clock()) else None


def this_process(now: float) -> Holder:
    """Return this process as a holder that renewed its lease at this time."""
    return Holder(socket.gethostname(), os.getpid(), psutil.Process().create_time(), now)


def read_holder(text: str | bytes) -> Holder | None:
    """Return the holder in a lease, or None if it was released, cut short by a kill, or damaged.

    A driver that is alive writes it again within 10 s.
    """
    try:
        holder = Holder(**json.loads(text))
        # A comparison with something that is not a number raises; NaN and infinity fail it.
        is_sound = 0 < holder.pid < _MAX_PID and 0 <= holder.pid_started < _MAX_S and 0 <= holder.renewed < _MAX_S
    except (ValueError, TypeError, RecursionError):  # TypeError: JSON, but not with the fields of a holder
        return None
    return holder if is_sound and isinstance(holder.host, str) and isinstance(holder.pid, int) else None


def _read(path: Path) -> Holder | None:
    try:
        return read_holder(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OrchestratorError(
            f"Cannot read {path} ({error.strerror}), which says whether a driver runs {path.parent.name}. If none "
            f"does, delete it."
        ) from None


def _held(sweep_id: str, holder: Holder) -> str:
    remedy = (
        "or stop that process first."
        if holder.is_here
        else f"stop that process, or wait until it has been dead for {EXPIRES_S:.0f} s. If you know that it is gone, "
        f"use --steal-lease."
    )
    return (
        f"{sweep_id} is already being run by process {holder.pid} on {holder.host}. "
        f"Watch it with `orchestrator status {sweep_id}`, {remedy}"
    )
