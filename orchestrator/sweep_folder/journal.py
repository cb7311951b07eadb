"""Write and read the journal of a sweep: an append-only file with one event per line.

It is the sweep's only source of truth.

An event is on disk (fsync) before anything acts on it. There is one writer. It drops events that are already known (an
epoch of a trial, the end of a trial), so the journal has each only once. A kill may leave a last line that is cut
short: nothing has acted on it, and it is removed when the journal is next opened for writing. :mod:`.events` lists the
events; :mod:`.chain` says how each line protects itself and those before it.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.home import PLAN_FILE
from orchestrator.redaction import redact
from orchestrator.sweep_folder.chain import Chain, is_sealed, read_value
from orchestrator.sweep_folder.events import (
    DriverStarted,
    Event,
    EventError,
    TrialEnded,
    TrialLost,
    from_line,
    from_plain,
    parse_lines,
    to_line,
)
from orchestrator.sweep_folder.lease import Lease, find_holder
from orchestrator.sweep_folder.lines import append_line
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.state import SweepState
from training.files import sync_folder, write_whole

JOURNAL_FILE = "journal.jsonl"
_NOT_AS_WRITTEN = (
    "it does not match its checksum, so it was changed, or lines before it were changed, removed, repeated or moved"
)
_BREAK = b"\n"
_BATCH_LINES = 500
_TAIL_BYTES = 64  # more than the checksum at the end of a line takes


class JournalError(OrchestratorError):
    """A journal that cannot be read as it was written; the message says where and how to restore it.

    Attributes:
        fault: What is wrong, with the line if there is one, but without the path and the advice.
    """

    def __init__(self, message: str, fault: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault or message


class Journal:
    """The one writer of a sweep's journal; use :meth:`open`, while holding the sweep's lease.

    Attributes:
        state: The state after all its events.
        size: How many bytes are on disk.
    """

    def __init__(
        self, path: Path, descriptor: int, state: SweepState, chain: Chain, lease: Lease | None = None
    ) -> None:
        self.path = path
        self.state = state
        self.size = os.fstat(descriptor).st_size
        self._descriptor, self._chain, self._lease = descriptor, chain, lease
        self._is_between = False

    @classmethod
    def open(cls, path: Path, lease: Lease | None = None) -> Journal:
        """Open a journal for writing, and remove a last line that a kill cut short.

        Args:
            path: The file; created if it does not exist.
            lease: Must be ours whenever a line is written.

        Raises:
            JournalError: A complete line is broken, or the file cannot be read.
        """
        chain = Chain()
        state, size = _replay(path, chain)
        # O_APPEND, so that a write can only ever land at the end.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # Otherwise the next event would continue the half line.
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        sync_folder(path.parent)
        return cls(path, descriptor, state, chain, lease)

    def append(self, event: Event) -> bool:
        """Write one event, wait until it is on disk, and apply it to ``state``.

        Args:
            event: Gets the present time if it has none.

        Returns:
            False if it was already known and therefore not written.

        Raises:
            OrchestratorError: It cannot be written, or another driver has taken the lease.
        """
        if not self._is_between and self.state.knows(event):
            return False
        stamped = event if event.time_ms else replace(event, time_ms=time.time_ns() // 1_000_000)
        if isinstance(stamped, TrialEnded | TrialLost) and stamped.message:
            # A library's message may contain a URI with its password.
            stamped = replace(stamped, message=redact(stamped.message))
        # Nobody can take the lease while the line is written: lines of two drivers would make the journal unreadable.
        with nullcontext() if self._lease is None else self._lease.writing():
            if self._is_between:
                self._reload()
                if self.state.knows(event):
                    return False
            # Ctrl-C may raise an exception anywhere: when a line is on disk but not in the chain, for example.
            self._is_between = True
            self._write(to_line(stamped).removesuffix(_BREAK))
            self.state.apply(stamped)
            self._is_between = False
        return True

    def require_ours(self) -> None:
        """Check that no other driver has taken the lease.

        Raises:
            OrchestratorError: One has.
        """
        if self._lease is not None:
            self._lease.require()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, event: bytes) -> None:
        sealed = self._chain.seal(event)
        try:
            self.size = append_line(self._descriptor, sealed + _BREAK)
            self._chain.add(sealed)
        except OSError as error:
            self._is_between = False  # the file is as it was
            raise OrchestratorError(
                f"Cannot write to the journal, {self.path} ({error}). Free some space, then resume the sweep: "
                f"`orchestrator resume {self.path.parent.name}`"
            ) from error

    def _reload(self) -> None:
        """Continue from what is in the file, after an interruption between writing a line and taking note of it."""
        chain = Chain()
        state, size = _replay(self.path, chain)
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)
        vars(self.state).update(vars(state))  # in place, because others look at it too
        self._chain, self.size, self._is_between = chain, size, False


def replay(path: Path) -> SweepState:
    """Return the state of a sweep, for any reader.

    Unless a living driver holds the sweep's lease, the driver and unfinished trials count as INTERRUPTED.

    Raises:
        JournalError: A complete line is broken, or the file cannot be read.
    """
    return settle_dead(path, _replay(path, Chain())[0])


def settle_dead(path: Path, state: SweepState) -> SweepState:
    """Return a state with driver and unfinished trials as INTERRUPTED, unless a living driver holds the lease."""
    if find_holder(path.parent) is None:
        if state.driver_state == "RUNNING":
            state.driver_state = "INTERRUPTED"
            state.end_attempts()
        for record in state.open_trials():
            # One that is set aside waits in the same way whether a driver runs or not.
            if record.state is not TrialState.SET_ASIDE:
                state.records[record.trial] = replace(record, state=TrialState.INTERRUPTED)
    return state


def follow(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events after an offset, and the offset after them; a line that is not complete yet is left for later.

    Raises:
        JournalError: A complete line is broken, or the file cannot be read.
    """
    events: list[Event] = []
    with without_collector():
        for event, end in _read(path, Chain(), offset):
            if event is not None:
                events.append(event)
            offset = end
    return events, offset


def read_whole(path: Path) -> tuple[list[Event], bytes]:
    """Return the events and the lines before the first broken one: what can still be believed of a damaged journal."""
    events: list[Event] = []
    end = 0
    with suppress(JournalError):
        for event, offset in _read(path, Chain()):
            events += [] if event is None else [event]
            end = offset
    lines = path.read_bytes()[:end].split(_BREAK)[:-1] if end else []
    return events, b"".join(_clean(line) + _BREAK for line in lines)


def check_journal(path: Path) -> str | None:
    """Return why a journal cannot be used, or None: a line is broken, or it has no driver."""
    try:
        return None if _replay(path, Chain())[0].driver_state is not None else "it has no events"
    except JournalError as error:
        return str(error)


def replace_journal(path: Path, content: bytes) -> Path | None:
    """Put another journal in the place of a damaged one, which is kept under another name; return that name."""
    kept = None
    if path.exists():
        # A kill after the rename leaves no journal at all, which is noticed by what else the sweep has left.
        kept = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
        path.rename(kept)
    write_whole(path, content)
    return kept


def replay_on(path: Path, state: SweepState, offset: int) -> tuple[SweepState, int]:
    """Apply the events after an offset to the state up to there; return it with the offset after them.

    Raises:
        JournalError: As :func:`replay`.
    """
    return _replay(path, Chain(), state, offset)


def _replay(path: Path, chain: Chain, state: SweepState | None = None, offset: int = 0) -> tuple[SweepState, int]:
    state, size = state or SweepState(), offset
    with without_collector():
        for event, end in _read(path, chain, offset):
            try:
                if event is not None:
                    state.apply(event)
            # A line that was edited by hand may break any assumption of the state.
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                raise _broken(path, size, "contradicts the events before it", state.backup) from None
            size = end
    return state, size


@contextmanager
def without_collector() -> Iterator[None]:
    """Let the garbage collector rest while a journal is read: it would look through all events again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(path: Path, chain: Chain, offset: int = 0) -> Iterator[tuple[Event | None, int]]:
    """Yield each event (None for one from a later version) and the offset after its line."""
    data, backup, start = _read_bytes(path, chain, offset), None, offset
    end_of_data = offset + len(data)
    lines = data.split(_BREAK)[:-1]  # what a kill cut short has no line break
    for first in range(0, len(lines), _BATCH_LINES):
        batch = [_clean(line) for line in lines[first : first + _BATCH_LINES]]
        # Of lines without a checksum, nothing else would tell that they are not valid one by one.
        plains = parse_lines(batch) if all(map(is_sealed, batch)) else None
        for number, line in enumerate(batch):
            end = start + len(lines[first + number]) + 1
            try:
                event = from_line(line) if plains is None else from_plain(plains[number])
            except EventError as error:
                # An editor may add an empty line at the end, a power cut one of zeros. Any other line was written whole
                # and is damaged.
                if not line.strip(b"\0") and end == end_of_data:
                    return
                raise _broken(path, start, str(error), backup) from None
            if not chain.add(line):
                raise _broken(path, start, _NOT_AS_WRITTEN, backup)
            if isinstance(event, DriverStarted):
                backup = event.backup
            start = end
            yield event, end


def _read_bytes(path: Path, chain: Chain, offset: int) -> bytes:
    """Return what follows an offset at the end of a line, and bring a chain there."""
    try:
        with path.open("rb") as file:
            # The checksum before the offset stands for all lines up to there, so they need not be read again.
            file.seek(max(0, offset - _TAIL_BYTES))
            value = read_value(_clean(file.read(min(offset, _TAIL_BYTES)).removesuffix(b"\n")))
            if value is None:
                # Lines of an earlier version have no checksum to continue from.
                file.seek(0)
                for line in file.read(offset).split(b"\n")[:-1]:
                    chain.add(_clean(line))
            else:
                chain.value = value
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise JournalError(f"{path}: the journal cannot be read: {error.strerror}.") from None


def _clean(line: bytes) -> bytes:
    """Return a line without what an editor adds to a file that it saves: a byte order mark, and carriage returns."""
    return line.removeprefix(codecs.BOM_UTF8).removesuffix(b"\r")


def _broken(path: Path, position: int, problem: str, backup: str | None) -> JournalError:
    line = path.read_bytes()[:position].count(_BREAK) + 1
    return JournalError(
        f"{path}:{line}: a broken line in a journal: {problem}. {advise_restore(path.parent, backup)}",
        f"line {line}: {problem}",
    )


def advise_restore(folder: Path, backup: str | None = None) -> str:
    """Return how a sweep's journal can be restored, as a sentence.

    Args:
        folder: The sweep's.
        backup: The place of its backup, if that is known; otherwise the plan may name one.
    """
    plan = _read_plainly(folder / PLAN_FILE)
    backup = backup or plan.get("backup")
    if isinstance(backup, str):
        return f"Restore the journal from its backup: `orchestrator resume {folder.name} --from {shlex.quote(backup)}`"
    if plan.get("kind") == "promote":
        return (
            f"Restore the file from a copy, or move {folder} away and promote again: "
            f"`orchestrator promote {plan.get('parent')}`"
        )
    return (
        f"Restore the file from a copy, or rebuild the journal from MLflow, if that has the sweep: "
        f"`orchestrator resume {folder.name} --from mlflow`"
    )


def _read_plainly(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
