"""Let only one driver at a time write a sweep's journal.

The driver renews its lease every 10 s. On its own host, a lease is free as soon as its process is dead. Another host or
container cannot see whether that process is alive: for it, the lease is free 60 s after the last renewal, or when it is
taken by force. The clocks of the hosts must agree to within a few seconds.

Each holder has a number, one more than that of the holder before. A driver reads the file before every line that it
writes, while it holds the lock without which nobody can take the lease. If the file names another holder, it stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.redaction import describe_error
from orchestrator.sweep_folder.holder import (
    EXPIRES_S,
    Holder,
    describe_holder,
    encode,
    read_holder,
    read_number,
    this_process,
)

LEASE_FILE = "lease.json"
RENEW_S = 10.0
_WIDTH = 512  # a renewal overwrites the one before in one call: readers see a complete one, even on a full disk
_LOCK_WAIT_S, _LOCK_LOOK_S = 10.0, 0.01  # nobody holds the lock for longer than one line takes to reach the disk
Clock = Callable[[], float]


class TakenError(Exception):
    """Another process has become the holder; ``holder`` is None if that process has since released it."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(holder)
        self.holder = holder


class HolderRecord(Protocol):
    """The place that records who may write something."""

    def read(self) -> Holder | None:
        """Return the holder, dead or alive, or None."""

    def read_number(self) -> int:
        """Return the number of the last holder, or 0."""

    def write(self, holder: Holder) -> None:
        """Write the holder."""

    def clear(self, number: int) -> None:
        """Record that there is no holder, and the number of the last one."""

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
        self._renewed_s = 0.0

    @property
    def is_held(self) -> bool:
        """Whether this process has become the holder."""
        return self._holder is not None

    @property
    def age_s(self) -> float:
        """Seconds since the last renewal."""
        return time.monotonic() - self._renewed_s  # not by the clock, which may be set back

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
            self._write(this_process(self._clock(), self.record.read_number() + 1))

    @contextmanager
    def holding(self) -> Iterator[Holder]:
        """Keep others from becoming the holder inside the block.

        Raises:
            TakenError: Another process is now the holder.
        """
        assert self._holder is not None
        with self.record.locked():
            found = self.record.read()
            if not self._holder.is_same(found):
                raise TakenError(found)
            yield self._holder

    def renew(self) -> None:
        """Show that this process is alive.

        Raises:
            TakenError: Another process is now the holder.
        """
        with self.holding() as holder:
            self._write(replace(holder, renewed=self._clock()))

    def release(self) -> None:
        """Release it, if it is still ours."""
        assert self._holder is not None
        with self.record.locked():
            if self._holder.is_same(self.record.read()):
                self.record.clear(self._holder.number)

    def _write(self, holder: Holder) -> None:
        self.record.write(holder)
        self._holder, self._renewed_s = holder, time.monotonic()


class Lease:
    """The right to write a sweep's journal, from construction until it is released or this process ends.

    A thread renews it while it is entered as a context manager.

    Args:
        folder: The sweep's.
        steal: Take it from a driver on another host that may still be alive; a driver on this host can be stopped.
        clock: Unix time in s.
        renew_s: Seconds between two renewals.

    Attributes:
        on_lost: Called from another thread once another driver has taken the lease.

    Raises:
        UserError: Another living driver holds it.
        OrchestratorError: Its file cannot be read or written.
    """

    def __init__(
        self, folder: Path, *, steal: bool = False, clock: Clock = time.time, renew_s: float = RENEW_S
    ) -> None:
        def refuse(holder: Holder) -> None:
            if holder.is_here or not steal:
                raise UserError(_held(folder.name, holder))

        self.on_lost: Callable[[], None] = lambda: None
        self._folder, self._renew_s = folder, renew_s
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._lost: str | None = None
        self._claim = Claim(_LeaseFile(folder / LEASE_FILE), clock)
        _read(folder / LEASE_FILE)  # before its lock, which cannot say what is wrong with the file
        try:
            self._claim.take(refuse)
        except OSError as error:
            raise self._cannot_write(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others from taking it while something is written inside the block.

        Raises:
            OrchestratorError: Another driver has taken it, or its file cannot be read.
        """
        if self._lost is None:
            try:
                with self._claim.holding():
                    yield
                return
            except TakenError as error:
                self._note_taker(error.holder)
            except OSError as error:
                raise self._cannot_write(error) from error
        raise OrchestratorError(
            f"This driver has lost the sweep: {self._lost} has taken it over. This driver writes nothing more."
        )

    def require(self) -> None:
        """Check that it is still ours.

        Raises:
            OrchestratorError: As :meth:`writing`.
        """
        with self.writing():
            pass

    def lose(self, taker: str) -> None:
        """Record that another driver continues the sweep when the file does not show it."""
        # Keep the first one: later ones may be its successors.
        self._lost = self._lost or taker
        self.on_lost()

    def renew(self) -> None:
        """Show that this process is alive, unless another one has taken the lease."""
        try:
            # A short file system outage must not end a sweep; the next renewal tries again.
            with suppress(OSError):
                self._claim.renew()
        except TakenError as error:
            self._note_taker(error.holder)

    def release(self) -> None:
        """Release the lease, if it is still ours."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        # A folder that cannot be written any more must not hide why the driver ends, and its lease ends with it.
        with suppress(OSError, OrchestratorError):
            self._claim.release()

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _keep_renewing(self) -> None:
        while self._lost is None and not self._released.wait(self._renew_s):
            with suppress(OrchestratorError):  # its file cannot be read: the next renewal tries again
                self.renew()
            # The next line may be an hour away, and until then this driver would train for nothing.
            if self._lost is not None:
                self.on_lost()

    def _note_taker(self, found: Holder | None) -> None:
        self._lost = describe_holder(found) if found else "a driver that has since released it"

    def _cannot_write(self, error: OSError) -> OrchestratorError:
        return OrchestratorError(
            f"Cannot write to the sweep's folder, {self._folder} ({describe_error(error)}). Once it can be written "
            f"again, resume the sweep: `orchestrator resume {self._folder.name}`"
        )


class _LeaseFile:
    """The record of a lease, in a file that is locked while it is read and written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # One for all threads: a second one in a thread that holds the first would wait for itself.
        self._lock = FileLock(path, timeout=_LOCK_WAIT_S, poll_interval=_LOCK_LOOK_S)

    def read(self) -> Holder | None:
        return _read(self._path)

    def write(self, holder: Holder) -> None:
        self._put(encode(holder))

    def read_number(self) -> int:
        return read_number(self._path.read_bytes())

    def clear(self, number: int) -> None:
        # Not deleted, because another process may be waiting for the lock on it.
        self._put(encode(number))

    def locked(self) -> AbstractContextManager[object]:
        return self._lock

    def _put(self, content: bytes) -> None:
        # In place and not by renaming, because the lock is on this file.
        with self._path.open("r+b", buffering=0) as file:
            file.write(content.ljust(_WIDTH))


def find_holder(folder: Path, clock: Clock = time.time) -> Holder | None:
    """Return the living driver that holds the lease of the sweep in this folder, or None."""
    holder = _read(folder / LEASE_FILE)
    return holder if holder is not None and holder.is_alive(clock()) else None


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
        f"{sweep_id} is already being run by {describe_holder(holder)}. "
        f"Watch it with `orchestrator status {sweep_id}`, {remedy}"
    )
