"""The append-only JSON-lines truth of a sweep.

One line per event, ``{"event": ..., "time_ms": ..., ...}``, on disk (fsync) before anybody acts on it:

===================  ================================================================================================
driver_started       sweep, host, pid, num_trials, provenance, backup (its URI, if any); at every start and resume
trial_started        trial, attempt, params, origin, host, pid; at every hand-out to an actor
epoch_reported       trial, epoch, metrics; the first of an attempt also: host, pid, queue_s, start_s
trial_lost           trial, cause (LOST | OOM), message; an attempt came to nothing, and the trial is to be handed out
again trial_ended          trial, state (COMPLETE | PRUNED | FAILED), cause, message
sweep_extended       num_trials, the new total
driver_ended         state (FINISHED | INTERRUPTED | FAILED); missing after a kill
promotion_decided    verdict, reason, marks, champion (NAME/VERSION or null), model (registered name)
test_opened          figures (trial -> metrics), epochs (trial -> the epoch whose weights were evaluated)
champion_set         version (NAME/VERSION)
===================  ================================================================================================

There is one writer. What is known already (an epoch of a trial, the end of a trial) is dropped, so that every view of
the journal has it once. A line cut short at the very end is what a kill leaves: it was never acted on, and goes when
the journal is next opened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.durable import sync_folder
from orchestrator.errors import OrchestratorError
from orchestrator.redaction import redact
from orchestrator.sweep_folder.lease import Lease, find_holder
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.state import KNOWN_EVENTS, Event, SweepState

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """The one writer of a sweep's journal; use :meth:`open`, while holding the sweep's lease.

    Attributes:
        state: What its events come to.
        size: How many bytes of it are on disk and have been acted on.
    """

    def __init__(self, path: Path, descriptor: int, state: SweepState, lease: Lease | None = None) -> None:
        self.path = path
        self.state = state
        self.size = os.fstat(descriptor).st_size
        self._descriptor, self._lease = descriptor, lease

    @classmethod
    def open(cls, path: Path, lease: Lease | None = None) -> Journal:
        """Open for writing, with the state that its events come to; a last line cut short by a kill is taken away.

        Args:
            path: The file.
            lease: Must still be ours whenever a line is written.

        Raises:
            OrchestratorError: A line other than the last is broken.
        """
        state, size = _replay(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        sync_folder(path.parent)
        return cls(path, descriptor, state, lease)

    def append(self, event: Mapping[str, Any]) -> bool:
        """Write one event, wait until it is on disk, and take it into ``state``.

        Args:
            event: As listed at the top of this module; ``time_ms`` is set here.

        Returns:
            False if it was known already and so not written.

        Raises:
            OrchestratorError: The disk does not take it, or another driver has taken the lease.
        """
        assert event["event"] in KNOWN_EVENTS, event
        if self.state.knows(event):
            return False
        if self._lease is not None:
            self._lease.require()
        stamped = {"event": event["event"], "time_ms": time.time_ns() // 1_000_000} | dict(event)
        if stamped.get("message"):  # a library's words may hold a URI with its password
            stamped["message"] = redact(stamped["message"])
        self._write(json.dumps(stamped, separators=(",", ":")).encode() + b"\n")
        self.state.apply(stamped)
        return True

    def close(self) -> None:
        """Close the file; nothing is left to be written."""
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
            # One call, so that a signal handler cannot come between two halves of a line.
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._descriptor)
            self.size = size + written
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise OrchestratorError(
                f"journal must be on a disk that takes it, but got journal={self.path} ({error}). Free some space, "
                f"then resume the sweep."
            ) from error


def replay(path: Path) -> SweepState:
    """Return what the events of a journal come to, for any reader.

    Trials that have not ended are INTERRUPTED, and so is the driver, unless a living driver holds the sweep's lease.

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
    """Return the events that were written behind an offset, and the offset behind them; only whole lines are read.

    Raises:
        OrchestratorError: A line other than the last is broken.
    """
    events: list[Event] = []
    for event, end in _read(path, offset):
        events.append(event)
        offset = end
    return events, offset


def _replay(path: Path) -> tuple[SweepState, int]:
    state, size = SweepState(), 0
    for event, end in _read(path):
        try:
            state.apply(event)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise OrchestratorError(_broken(path, size)) from None
        size = end
    return state, size


def _read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    start = 0
    while (newline := data.find(b"\n", start)) >= 0:
        event = _parse(data[start:newline])
        if event is None and data.find(b"\n", newline + 1) < 0:
            return  # cut short, with or without something behind it
        if event is None:
            raise OrchestratorError(_broken(path, offset + start))
        yield event, offset + newline + 1
        start = newline + 1


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line.decode())  # of bytes, json would first look for their encoding
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _broken(path: Path, position: int) -> str:
    number = path.read_bytes()[:position].count(b"\n") + 1
    return (
        f"{path}:{number}: a line of a journal must be a JSON object, an event with all that belongs to it, but this "
        f"one is not. "
        f"Only the last line may be cut short; restore the file from a copy, or take this line out if you know what it "
        f"was."
    )
