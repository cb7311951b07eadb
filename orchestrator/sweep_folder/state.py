"""Work out what the events of a journal come to: the state of a sweep and of its trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState

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
KNOWN_EVENTS = frozenset(_APPLY)
