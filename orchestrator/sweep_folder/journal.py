"""Write and read the journal of a sweep: an append-only file with one event per line.

It is the sweep's only source of truth.

An event is on disk (fsync) before anything acts on it. There is one writer. It drops events that are already known (an
epoch of a trial, the end of a trial), so the journal has each only once. A kill may leave a last line that is cut
short: nothing has acted on it, and it is removed when the journal is next opened for writing. :mod:`.events` lists the
events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from orchestrator.errors import OrchestratorError
from orchestrator.redaction import redact
from orchestrator.sweep_folder.events import (
    BrokenLineError,
    Event,
    EventError,
    TrialEnded,
    TrialLost,
    from_line,
    to_line,
)
from orchestrator.sweep_folder.lease import Lease, find_holder
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.state import SweepState
from training.files import sync_folder

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """The one writer of a sweep's journal; use :meth:`open`, while holding the sweep's lease.

    Attributes:
        state: The state after all its events.
        size: How many bytes are on disk.
    """

    def __init__(self, path: Path, descriptor: int, state: SweepState, lease: Lease | None = None) -> None:
        self.path = path
        self.state = state
        self.size = os.fstat(descriptor).st_size
        self._descriptor, self._lease = descriptor, lease

    @classmethod
    def open(cls, path: Path, lease: Lease | None = None) -> Journal:
        """Open a journal for writing, and remove a last line that a kill cut short.

        Args:
            path: The file; created if it does not exist.
            lease: Must be ours whenever a line is written.

        Raises:
            OrchestratorError: A line other than the last is broken.
        """
        state, size = _replay(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # Otherwise the next event would continue the half line.
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        sync_folder(path.parent)
        return cls(path, descriptor, state, lease)

    def append(self, event: Event) -> bool:
        """Write one event, wait until it is on disk, and apply it to ``state``.

        Args:
            event: Gets the present time if it has none.

        Returns:
            False if it was already known and therefore not written.

        Raises:
            OrchestratorError: It cannot be written, or another driver has taken the lease.
        """
        if self.state.knows(event):
            return False
        # Check the lease last: a driver that was suspended may have lost it since its previous event.
        if self._lease is not None:
            self._lease.require()
        stamped = event if event.time_ms else replace(event, time_ms=time.time_ns() // 1_000_000)
        if isinstance(stamped, TrialEnded | TrialLost) and stamped.message:
            # A library's message may contain a URI with its password.
            stamped = replace(stamped, message=redact(stamped.message))
        self._write(to_line(stamped))
        self.state.apply(stamped)
        return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            # In one call: a signal handler that also writes cannot get between two halves of a line.
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._descriptor)
            self.size = size + written
        except OSError as error:
            # Half a line in the middle would make the whole journal unreadable.
            os.ftruncate(self._descriptor, size)
            raise OrchestratorError(
                f"Cannot write to the journal, {self.path} ({error}). Free some space, then resume the sweep: "
                f"`orchestrator resume {self.path.parent.name}`"
            ) from error


def replay(path: Path) -> SweepState:
    """Return the state of a sweep, for any reader.

    Unless a living driver holds the sweep's lease, the driver and unfinished trials count as INTERRUPTED.

    Raises:
        OrchestratorError: A line other than the last is broken.
    """
    state, _ = _replay(path)
    if find_holder(path.parent) is None:
        if state.driver_state == "RUNNING":
            state.driver_state = "INTERRUPTED"
        for record in state.open_trials():
            state.records[record.trial] = replace(record, state=TrialState.INTERRUPTED)
    return state


def follow(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events after an offset, and the offset after them; a line that is not complete yet is left for later.

    Raises:
        OrchestratorError: A line other than the last is broken.
    """
    events: list[Event] = []
    for event, end in _read(path, offset):
        if event is not None:
            events.append(event)
        offset = end
    return events, offset


def _replay(path: Path) -> tuple[SweepState, int]:
    state, size = SweepState(), 0
    for event, end in _read(path):
        try:
            if event is not None:
                state.apply(event)
        # A line that was edited by hand may break any assumption of the state.
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise OrchestratorError(_describe_broken(path, size, "contradicts the events before it")) from None
        size = end
    return state, size


def _read(path: Path, offset: int = 0) -> Iterator[tuple[Event | None, int]]:
    """Yield each event (None for one from a later version) and the offset after its line."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    start = 0
    while (newline := data.find(b"\n", start)) >= 0:
        try:
            event = from_line(data[start:newline])
        except BrokenLineError as error:
            if data.find(b"\n", newline + 1) < 0:
                return  # the last complete line: cut short by a kill
            raise OrchestratorError(_describe_broken(path, offset + start, str(error))) from None
        except EventError as error:
            raise OrchestratorError(_describe_broken(path, offset + start, str(error))) from None
        yield event, offset + newline + 1
        start = newline + 1


def _describe_broken(path: Path, position: int, problem: str) -> str:
    number = path.read_bytes()[:position].count(b"\n") + 1
    return (
        f"{path}:{number}: a broken line in a journal: {problem}. Restore the file from a copy, or delete the line if "
        f"you know what it was."
    )
