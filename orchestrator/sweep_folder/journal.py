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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.durable import sync_folder
from orchestrator.errors import OrchestratorError
from orchestrator.redaction import redact
from orchestrator.sweep_folder.lease import Lease, find_holder
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState

JOURNAL_FILE = "journal.jsonl"
Event = dict[str, Any]


@dataclass
class SweepState:
    """What the events of a journal come to.

    Attributes:
        records: Trial number -> record.
        num_trials: How many trials the sweep is to have.
        driver_state: ``RUNNING``, or how the last driver ended (``INTERRUPTED`` if it was killed); None before the
            first.
        provenance: Of the last driver.
        started_ms, driver_started_ms: When the first and the last driver started.
        driver_spans: (start_ms, end_ms) per driver; one that was killed ends with the last event that it wrote.
        backup: URI under which the last driver copied its journal, if it did.
        promotion, test, champion: The events ``promotion_decided``, ``test_opened`` and ``champion_set``, if there are
            any.
    """

    records: dict[int, TrialRecord] = field(default_factory=dict)
    num_trials: int = 0
    driver_state: str | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    started_ms: int | None = None
    driver_started_ms: int | None = None
    driver_spans: tuple[tuple[int, int], ...] = ()
    backup: str | None = None
    promotion: Event | None = None
    test: Event | None = None
    champion: Event | None = None

    def knows(self, event: Mapping[str, Any]) -> bool:
        """Whether an event adds nothing: its epoch was reported, or its trial has ended."""
        if event["event"] not in ("epoch_reported", "trial_ended"):
            return False
        record = self.records[event["trial"]]
        return record.ended or event.get("epoch") in record.metrics

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event; names that are not known here are passed over."""
        if not self.knows(event) and event["event"] in _APPLY:
            if self.driver_state == "RUNNING" and event["event"] != "driver_started":
                self.driver_spans = (*self.driver_spans[:-1], (self.driver_spans[-1][0], event["time_ms"]))
            _APPLY[event["event"]](self, event)

    def driven_s(self, now_ms: float | None = None) -> float:
        """Return the seconds that drivers were at work on it, without the time between a stop or a kill and the resume.

        Args:
            now_ms: The time, if the last driver is still at work.
        """
        ends = [end for _, end in self.driver_spans[:-1]] + [
            end if now_ms is None else now_ms for _, end in self.driver_spans[-1:]
        ]
        return sum(end - start for (start, _), end in zip(self.driver_spans, ends, strict=True)) / 1000

    def open_trials(self) -> list[TrialRecord]:
        """Return the trials that were started and have not ended, by number."""
        return [record for _, record in sorted(self.records.items()) if not record.ended]


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
        assert event["event"] in _APPLY, event
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


def _driver_started(state: SweepState, event: Mapping[str, Any]) -> None:
    state.driver_state = "RUNNING"
    state.num_trials = event["num_trials"]
    state.provenance = dict(event["provenance"])
    state.backup = event.get("backup") or event.get("mirror")
    state.driver_started_ms = event["time_ms"]
    state.started_ms = state.started_ms or event["time_ms"]
    state.driver_spans = (*state.driver_spans, (event["time_ms"], event["time_ms"]))


def _driver_ended(state: SweepState, event: Mapping[str, Any]) -> None:
    state.driver_state = event["state"]


def _sweep_extended(state: SweepState, event: Mapping[str, Any]) -> None:
    state.num_trials = event["num_trials"]


def _trial_started(state: SweepState, event: Mapping[str, Any]) -> None:
    trial, now = event["trial"], event["time_ms"]
    record = state.records.get(trial)
    if record is None:
        record = TrialRecord(trial, event["params"], event["origin"], started_ms=now)
    state.records[trial] = replace(record, attempts=event["attempt"], spans=(*record.spans, (now, now)))


def _epoch_reported(state: SweepState, event: Mapping[str, Any]) -> None:
    record = state.records[event["trial"]]
    state.records[record.trial] = replace(
        record,
        metrics={**record.metrics, event["epoch"]: event["metrics"]},
        spans=_until(record, event["time_ms"]),
        queue_s=record.queue_s + event.get("queue_s", 0.0),
        start_s=record.start_s + event.get("start_s", 0.0),
    )


def _trial_lost(state: SweepState, event: Mapping[str, Any]) -> None:
    record = state.records[event["trial"]]
    state.records[record.trial] = replace(record, needs_all=record.needs_all or event["cause"] == Cause.OOM)


def _trial_ended(state: SweepState, event: Mapping[str, Any]) -> None:
    record = state.records[event["trial"]]
    state.records[record.trial] = replace(
        record,
        state=TrialState(event["state"]),
        cause=Cause(event["cause"]) if event.get("cause") else None,
        message=event.get("message"),
        ended_ms=event["time_ms"],
        spans=_until(record, event["time_ms"]),
    )


def _promotion_decided(state: SweepState, event: Mapping[str, Any]) -> None:
    state.promotion = dict(event)


def _test_opened(state: SweepState, event: Mapping[str, Any]) -> None:
    state.test = dict(event)


def _champion_set(state: SweepState, event: Mapping[str, Any]) -> None:
    state.champion = dict(event)


def _until(record: TrialRecord, end_ms: int) -> tuple[tuple[int, int], ...]:
    return (*record.spans[:-1], (record.spans[-1][0], end_ms))


_APPLY: dict[str, Callable[[SweepState, Mapping[str, Any]], None]] = {
    "driver_started": _driver_started,
    "driver_ended": _driver_ended,
    "sweep_extended": _sweep_extended,
    "trial_started": _trial_started,
    "epoch_reported": _epoch_reported,
    "trial_lost": _trial_lost,
    "trial_ended": _trial_ended,
    "promotion_decided": _promotion_decided,
    "test_opened": _test_opened,
    "champion_set": _champion_set,
}
