"""Who may write a sweep's journal: one driver at a time, and what to do with what a dead one left behind.

The driver renews its lease every 10 s. On its own host a dead process frees it at once; from another host, where nobody
can see whether the process lives, it is free after 60 s without a renewal, or when it is taken by force. A driver that
was only asleep, or cut off, and comes back finds another holder and writes no further line. The hosts' clocks must
agree within some seconds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError

LEASE_FILE = "lease.json"
RENEW_S = 10.0
EXPIRES_S = 60.0
_WIDTH = 512  # a renewal writes over the one before, in one call: a reader sees a whole one, and a full disk takes it
Clock = Callable[[], float]


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease; its start time tells it from a later one with the same pid.

    Attributes:
        renewed: Unix time in s of the last renewal, by its host's clock.
    """

    host: str
    pid: int
    pid_started: float
    renewed: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_alive(self, now: float) -> bool:
        """Return whether it still runs; of one on another host, whether it renewed its lease of late."""
        if not self.is_here:
            return now - self.renewed < EXPIRES_S
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.pid_started) < 1.0 and is_running(process)
        except psutil.Error:
            return False

    def is_same(self, other: Holder | None) -> bool:
        """Return whether both are one process."""
        return other is not None and replace(other, renewed=self.renewed) == self


class Lease:
    """The right to write one sweep's journal, held until released or until this process is dead; renewed while it is
    entered.

    Args:
        folder: The sweep's.
        steal: Take it from a driver on another host that may still live. One that runs on this host can be stopped, and
            keeps it.
        clock: Unix time in s.
        renew_s: Between two renewals.

    Raises:
        UserError: Another living driver holds it.
    """

    def __init__(
        self, folder: Path, *, steal: bool = False, clock: Clock = time.time, renew_s: float = RENEW_S
    ) -> None:
        self._path, self._clock, self._renew_s = folder / LEASE_FILE, clock, renew_s
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._lost: str | None = None
        with self._locked() as descriptor:
            holder = find_holder(folder, clock)
            if holder is not None and (holder.is_here or not steal):
                raise UserError(_held(folder.name, holder))
            self._holder = this_process(clock())
            self._write(descriptor)

    def require(self) -> None:
        """Check, before something is written, that it is still ours; after a time in which it was not renewed, by a
        look at the file.

        Raises:
            OrchestratorError: Another driver has taken it.
        """
        if self._lost is None and self._clock() - self._holder.renewed > 2 * self._renew_s:
            self.renew()
        if self._lost is not None:
            raise OrchestratorError(
                f"driver must hold the sweep's lease, but {self._lost} has taken it. "
                f"The sweep is that one's; this one writes nothing more to it."
            )

    def lose(self, taker: str) -> None:
        """Take in that another driver goes on with the sweep, where this one's file system does not show it."""
        self._lost = self._lost or taker

    def renew(self) -> None:
        """Say that this process still lives, unless another one has taken the lease."""
        # A file system that is away for a moment must not end a sweep; the next renewal tries again.
        with suppress(OSError), self._locked() as descriptor:
            found = _read(self._path)
            if not self._holder.is_same(found):
                self._lost = (
                    f"process {found.pid} on {found.host}" if found else "a driver that has given it back since"
                )
                return
            self._holder = replace(self._holder, renewed=self._clock())
            self._write(descriptor)

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._locked() as descriptor:
            if self._holder.is_same(_read(self._path)):
                os.ftruncate(descriptor, 0)

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

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file and lock it: two drivers may find the same dead holder, and only one may look and write."""
        with FileLock(self._path):
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _write(self, descriptor: int) -> None:
        os.pwrite(descriptor, json.dumps(asdict(self._holder)).ljust(_WIDTH).encode(), 0)


def find_holder(folder: Path, clock: Clock = time.time) -> Holder | None:
    """Return the living driver that holds the lease of the sweep in this folder, or None."""
    holder = _read(folder / LEASE_FILE)
    return holder if holder is not None and holder.is_alive(clock()) else None


def this_process(now: float) -> Holder:
    """Return this process as a holder that renews its lease now."""
    return Holder(socket.gethostname(), os.getpid(), psutil.Process().create_time(), now)


def read_holder(text: str | bytes) -> Holder | None:
    """Return the holder that a lease names, or None if it was given back or cut short by a kill."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def is_running(process: psutil.Process) -> bool:
    try:
        # A zombie does nothing any more, and in a container there may be nobody to bury it.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _read(path: Path) -> Holder | None:
    try:
        return read_holder(path.read_bytes())
    except FileNotFoundError:
        return None


def _held(sweep_id: str, holder: Holder) -> str:
    remedy = (
        "or stop that process first."
        if holder.is_here
        else f"stop that process, or wait: {EXPIRES_S:.0f} s after its death the sweep is free. If it is gone for "
        f"good: --steal-lease"
    )
    return (
        f"sweep must have one driver, but got sweep={sweep_id}, which process {holder.pid} on {holder.host} drives. "
        f"Watch it with `orchestrator status {sweep_id}`, {remedy}"
    )
