"""Keep one record per trial of a sweep, find the best, and rank them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from training.config.run import Scalar
from training.selection import Protocol, choose_epoch, choose_value


class TrialState(StrEnum):
    """State of a trial."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    """Started but not ended, with no driver running; `resume` continues it."""
    SET_ASIDE = "SET ASIDE"
    """Waits at the epoch of the screen, without a process, until it is known whether it is among the best."""


class Cause(StrEnum):
    """Why a trial failed."""

    OOM = "OOM"
    NAN = "NAN"
    ERROR = "ERROR"
    LOST = "LOST"
    """Its process died several times in a row without reporting a new epoch."""
    TIMEOUT = "TIMEOUT"


ENDED = frozenset({TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED})


@dataclass(frozen=True)
class TrialRecord:
    """Everything that the journal says about one trial.

    Attributes:
        origin: What proposed the params: ``start_from``, ``startup``, ``tpe``, ``random``, ``grid`` or ``promote``.
        cause, message: Why it failed, and the first line of the error.
        metrics: Epoch (from 1) -> metric name -> value.
        attempts: How often it was handed to an actor: more than once after a kill, or once it was set aside.
        needs_all: Whether an attempt ran out of memory: the next one gets a whole GPU, or the whole machine.
        set_aside_after: After how many attempts the screen set it aside; 0 if it did not.
        spans: (start_ms, end_ms) per attempt; an attempt ends with its last event under the driver that ran it.
        queue_s, start_s: Time from the hand-out until the actor runs, and from there to the first epoch; summed over
            attempts.
        devices: The models of the GPUs (or, without one, of the CPUs) that its attempts ran on, each once.
    """

    trial: int
    params: Mapping[str, Scalar]
    origin: str
    started_ms: int
    state: TrialState = TrialState.RUNNING
    cause: Cause | None = None
    message: str | None = None
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    ended_ms: int | None = None
    attempts: int = 1
    needs_all: bool = False
    set_aside_after: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    queue_s: float = 0.0
    start_s: float = 0.0
    devices: tuple[str, ...] = ()

    def changed(self, **changes: Any) -> TrialRecord:
        """Return a copy with other values of some fields.

        ``dataclasses.replace`` passes every field through the constructor: with it, a journal of 10,000 trials takes
        half as long again to read.
        """
        made = object.__new__(TrialRecord)
        object.__setattr__(made, "__dict__", {**vars(self), **changes})
        return made

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED

    @property
    def last_epoch(self) -> int:
        """The last epoch reported; 0 before the first."""
        return max(self.metrics, default=0)

    @property
    def run_s(self) -> float:
        """Seconds that its attempts took in total."""
        return sum(end - start for start, end in self.spans) / 1000

    @property
    def held_s(self) -> float:
        """Seconds for which it had its resources: without the waits for a process."""
        return max(0.0, self.run_s - self.queue_s)

    def chosen_epoch(self, protocol: Protocol) -> int | None:
        """Return the epoch whose weights count, or None before the first."""
        return choose_epoch(self.metrics, protocol.select_epoch_by)

    def value(self, protocol: Protocol) -> float | None:
        """Return the score in percent that ranks the trial, or None if it has no finite one."""
        value = choose_value(self.metrics, protocol)
        # A metric may be NaN, for instance without any positive label; a NaN must not win the ranking.
        return None if value is None or not math.isfinite(value) else value


@dataclass(frozen=True)
class Handout:
    """One attempt at a trial, as an actor gets it.

    Attributes:
        handed_ms: When it was handed out.
        metrics: Epochs that earlier attempts have reported.
        best_value: Value of the best COMPLETE trial so far.
        alone: Whether it ran out of memory before and gets a whole GPU instead of a share.
    """

    trial: int
    params: Mapping[str, Scalar]
    handed_ms: int
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    best_value: float | None = None
    alone: bool = False


@dataclass(frozen=True)
class TrialReport:
    """What a trial's process reports: an epoch, a failure, or (as epoch 0) only that it is running.

    Attributes:
        cause, message: Set if it failed; then there is no epoch. LOST and OOM are worth another attempt.
        details: The traceback, for the file next to the journal.
        storage_full: Whether it failed because its storage is full, which is not the trial's fault.
        artifacts: File name -> content, with the last epoch.
        passed_over: Names of incomplete checkpoints, newer than the one it continues from.
        resumed_from: Epoch of the checkpoint it continues from, 0 for the start; only in the first report of an
            attempt.
        queue_s, start_s: As in :class:`TrialRecord`; only in the first report of an attempt.
        device: What it runs on; only in the first report of an attempt.
    """

    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    cause: Cause | None = None
    message: str = ""
    details: str = ""
    storage_full: bool = False
    artifacts: dict[str, bytes] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    resumed_from: int | None = None
    host: str | None = None
    pid: int | None = None
    queue_s: float | None = None
    start_s: float | None = None
    device: str | None = None


def best(records: Iterable[TrialRecord], protocol: Protocol) -> TrialRecord | None:
    """Return the COMPLETE trial with the highest value (the lowest number among equals), or None."""
    # Negated number, so that the earliest of equal trials wins on every replay.
    scored = [
        (value, -record.trial, record) for record in records if (value := _final_value(record, protocol)) is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def leaderboard(records: Iterable[TrialRecord], protocol: Protocol) -> list[dict[str, Any]]:
    """Return one row per trial, best first.

    Only COMPLETE trials have a rank. The others follow, those with more epochs first, then by value.

    Returns:
        Rows with ``rank, trial, state, value, epoch, last_epoch, params, origin, run_s, attempts, cause, message``;
        ``value`` is ``protocol.metric`` in percent at ``epoch``, the one that ``protocol.select_epoch_by`` chooses.
    """
    rows = sorted((_row(record, protocol) for record in records), key=_order)
    return [{"rank": rank if _is_ranked(row) else None, **row} for rank, row in enumerate(rows, start=1)]


def _final_value(record: TrialRecord, protocol: Protocol) -> float | None:
    return record.value(protocol) if record.state is TrialState.COMPLETE else None


def _is_ranked(row: Mapping[str, Any]) -> bool:
    return bool(row["state"] == TrialState.COMPLETE and row["value"] is not None)


def _order(row: Mapping[str, Any]) -> tuple[bool, int, float, int]:
    # Values of unfinished trials come from fewer epochs and are not comparable with those of complete ones.
    value, trial = row["value"], row["trial"]
    if _is_ranked(row):
        return False, 0, -value, trial
    return True, -row["last_epoch"], math.inf if value is None else -value, trial


def _row(record: TrialRecord, protocol: Protocol) -> dict[str, Any]:
    return {
        "trial": record.trial,
        "state": str(record.state),
        "value": record.value(protocol),
        "epoch": record.chosen_epoch(protocol),
        "last_epoch": record.last_epoch,
        "params": dict(record.params),
        "origin": record.origin,
        "run_s": round(record.run_s, 1),
        "attempts": record.attempts,
        "cause": None if record.cause is None else str(record.cause),
        "message": record.message,
    }
