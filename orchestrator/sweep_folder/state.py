"""Derive the state of a sweep and of its trials from the events in its journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from orchestrator.sweep_folder.events import (
    ChampionSet,
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    LimitReached,
    PromotionDecided,
    SearchOver,
    SweepExtended,
    SweepPlanned,
    TestOpened,
    TrialEnded,
    TrialEvent,
    TrialLost,
    TrialSetAside,
    TrialStarted,
)
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState

_OF_TRIALS = frozenset(get_args(TrialEvent))  # faster than isinstance for tens of thousands of events


@dataclass
class SweepState:
    """The state of a sweep after some events.

    Attributes:
        plan: The plan that the sweep began with; None if only earlier versions have run it.
        records: Trial number -> record.
        num_trials: How many trials the sweep should have.
        driver_state: ``RUNNING``, or how the last driver ended (``INTERRUPTED`` if it was killed); None before the
            first.
        provenance: Provenance of the last driver.
        started_ms, driver_started_ms: When the first and the last driver started.
        driver_spans: (start_ms, end_ms) per driver; that of a killed driver ends with its last event.
        backup: URI to which the last driver copied its journal, if any.
        promotion, test, champion: The last event of its kind, if there is one.
        handed_out: Trials that the last driver has handed out.
        max_gpu_hours: The limit that an extension has set; None leaves that of the plan.
        limit: What ended the sweep early, if its limit did.
        over: What ended it early, if further trials were expected to gain too little.
    """

    plan: Mapping[str, Any] | None = None
    records: dict[int, TrialRecord] = field(default_factory=dict)
    num_trials: int = 0
    driver_state: str | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    started_ms: int | None = None
    driver_started_ms: int | None = None
    driver_spans: tuple[tuple[int, int], ...] = ()
    backup: str | None = None
    promotion: PromotionDecided | None = None
    test: TestOpened | None = None
    champion: ChampionSet | None = None
    handed_out: set[int] = field(default_factory=set)
    max_gpu_hours: float | None = None
    limit: LimitReached | None = None
    over: SearchOver | None = None

    @property
    def is_concluded(self) -> bool:
        """Whether a promotion has taken every step: decided, opened the test split and registered what it promoted."""
        decided = self.promotion
        if decided is None or self.test is None:
            return False
        return decided.verdict != "PROMOTE" or self.champion is not None

    def knows(self, event: Event) -> bool:
        """Return whether an event adds nothing: its epoch was reported before, or its trial has ended."""
        if isinstance(event, EpochReported):
            record = self.records[event.trial]
            return record.ended or event.epoch in record.metrics
        return isinstance(event, (TrialEnded, TrialSetAside)) and self.records[event.trial].ended

    def apply(self, event: Event) -> None:
        """Update the state by one event."""
        kind = type(event)
        if kind is not TrialStarted and self.knows(event):
            return
        # Each event shows that the driver was still alive; after a kill, the last event is all that is known.
        if self.driver_state == "RUNNING" and (kind in _OF_TRIALS or _is_by_driver(event)):
            *before, (start, _) = self.driver_spans
            self.driver_spans = (*before, (start, event.time_ms))
        _APPLY[kind](self, event)

    @property
    def ended_ms(self) -> int | None:
        """When the last driver ended, or wrote its last event; None before the first."""
        return self.driver_spans[-1][1] if self.driver_spans else None

    def driven_s(self, now_ms: float | None = None) -> float:
        """Return for how many seconds drivers were running, without the gaps between a stop or a kill and a resume.

        Args:
            now_ms: The current time, if the last driver is still running.
        """
        ends = [end for _, end in self.driver_spans[:-1]] + [
            end if now_ms is None else now_ms for _, end in self.driver_spans[-1:]
        ]
        return sum(end - start for (start, _), end in zip(self.driver_spans, ends, strict=True)) / 1000

    def end_attempts(self, end_ms: int | None = None) -> None:
        """Let the attempts that the last driver has under way end now, or by default with that driver.

        An epoch may take an hour, so a trial's own last event says little about how long it ran.
        """
        end = self.ended_ms if end_ms is None else end_ms
        for record in self.open_trials():
            if end is not None and record.trial in self.handed_out:
                start, last = record.spans[-1]
                self.records[record.trial] = record.changed(spans=(*record.spans[:-1], (start, max(last, end))))

    def open_trials(self) -> list[TrialRecord]:
        """Return the trials that were started and have not ended, by number."""
        return [record for _, record in sorted(self.records.items()) if not record.ended]

    def total(self, planned: int) -> int:
        """Return how many trials the sweep should have, before its first event as many as were planned."""
        return self.num_trials or planned

    @property
    def is_limited(self) -> bool:
        """Whether the limit of GPU-hours was reached and has not been raised since."""
        return self.limit is not None and (self.max_gpu_hours or 0.0) <= self.limit.max_gpu_hours

    @property
    def is_over(self) -> bool:
        """Whether the search ended before all planned trials had run, and has not been extended since."""
        return self.over is not None and self.num_trials <= self.over.num_started

    @property
    def over_message(self) -> str | None:
        """Why the search is over, if it is."""
        return self.over.message if self.is_over and self.over is not None else None

    @property
    def early_end(self) -> str | None:
        """Why the sweep ended before all planned trials had run, as a sentence; None if it did not."""
        if self.over_message is not None:
            return self.over_message
        return self.limit.message if self.is_limited and self.limit is not None else None

    def is_done(self, planned: int) -> bool:
        """Return whether every trial has ended that may run; at its limit, a promotion has runs that may not."""
        # Fewer records than trials means that some were never handed out.
        return self.is_limited or (not self.open_trials() and len(self.records) >= self.total(planned))


def _is_by_driver(event: Event) -> bool:
    """Return whether an event shows that the latest driver was running at the time.

    Other events are written when the sweep is resumed, extended or promoted, perhaps hours after a driver was killed.
    """
    if isinstance(event, DriverEnded):
        return not event.settled
    return type(event) in _OF_TRIALS or isinstance(event, LimitReached | SearchOver)


def _sweep_planned(state: SweepState, event: SweepPlanned) -> None:
    state.plan = event.plan


def _driver_started(state: SweepState, event: DriverStarted) -> None:
    if state.driver_state == "RUNNING":  # the one before was killed
        state.end_attempts()
    state.driver_state = "RUNNING"
    state.num_trials = event.num_trials
    state.provenance = dict(event.provenance)
    state.backup = event.backup
    state.driver_started_ms = event.time_ms
    state.started_ms = state.started_ms or event.time_ms
    # Empty at first; apply() moves its end with every event of this driver.
    state.driver_spans = (*state.driver_spans, (event.time_ms, event.time_ms))
    # Nothing that was handed out before is still running: a driver ends its trials, or they end with it.
    state.handed_out = set()


def _driver_ended(state: SweepState, event: DriverEnded) -> None:
    state.driver_state = event.state
    # A settled end is written by a later command, which does not know when the attempts stopped.
    if not event.settled:
        state.end_attempts()


def _sweep_extended(state: SweepState, event: SweepExtended) -> None:
    state.num_trials = event.num_trials
    state.max_gpu_hours = event.max_gpu_hours or state.max_gpu_hours
    # Its driver may have been killed before it began.
    missing = event.num_trials > len(state.records) or bool(state.open_trials())
    if state.driver_state == "FINISHED" and missing and not state.is_limited:
        state.driver_state = "INTERRUPTED"


def _limit_reached(state: SweepState, event: LimitReached) -> None:
    state.limit = event


def _search_over(state: SweepState, event: SearchOver) -> None:
    state.over = event
    state.num_trials = event.num_started


def _trial_started(state: SweepState, event: TrialStarted) -> None:
    trial, now = event.trial, event.time_ms
    record = state.records.get(trial)
    if record is None:
        # A later attempt keeps the params of the first.
        record = TrialRecord(trial, event.params, event.origin, started_ms=now)
    now_state = TrialState.RUNNING if record.state is TrialState.SET_ASIDE else record.state
    spans = (*record.spans, (now, now))
    state.records[trial] = record.changed(state=now_state, attempts=event.attempt, spans=spans)
    state.handed_out.add(trial)


def _epoch_reported(state: SweepState, event: EpochReported) -> None:
    record = state.records[event.trial]
    state.records[record.trial] = record.changed(
        metrics={**record.metrics, event.epoch: event.metrics},
        spans=_spans_until(state, record, event.time_ms),
        queue_s=record.queue_s + (event.queue_s or 0.0),
        start_s=record.start_s + (event.start_s or 0.0),
        devices=_with_device(record.devices, event.device),
    )


def _with_device(devices: tuple[str, ...], device: str | None) -> tuple[str, ...]:
    return devices if device is None or device in devices else (*devices, device)


def _trial_lost(state: SweepState, event: TrialLost) -> None:
    record = state.records[event.trial]
    # Stays set: a trial that ran out of memory once gets everything in all later attempts.
    needs_all = record.needs_all or event.cause is Cause.OOM
    # The attempt took its time even if it was lost before its first epoch.
    state.records[record.trial] = record.changed(needs_all=needs_all, spans=_spans_until(state, record, event.time_ms))


def _trial_set_aside(state: SweepState, event: TrialSetAside) -> None:
    record = state.records[event.trial]
    spans = _spans_until(state, record, event.time_ms)
    # From now on it takes no time.
    state.handed_out.discard(record.trial)
    state.records[record.trial] = record.changed(state=TrialState.SET_ASIDE, set_aside_after=len(spans), spans=spans)


def _trial_ended(state: SweepState, event: TrialEnded) -> None:
    record = state.records[event.trial]
    spans = _spans_until(state, record, event.time_ms)
    state.records[record.trial] = record.changed(
        state=event.state, cause=event.cause, message=event.message, ended_ms=spans[-1][1], spans=spans
    )


def _promotion_decided(state: SweepState, event: PromotionDecided) -> None:
    state.promotion = event


def _test_opened(state: SweepState, event: TestOpened) -> None:
    state.test = event


def _champion_set(state: SweepState, event: ChampionSet) -> None:
    state.champion = event


def _spans_until(state: SweepState, record: TrialRecord, end_ms: int) -> tuple[tuple[int, int], ...]:
    """Return a trial's attempts, the last of them up to this time.

    If a later driver writes the end of a trial because the driver that ran it was killed, the attempt ended with the
    killed driver's last report: nothing has run since.
    """
    if record.trial not in state.handed_out:
        return record.spans
    return (*record.spans[:-1], (record.spans[-1][0], end_ms))


# Any: mypy cannot tie the key of an entry to the type of its function's argument.
_APPLY: dict[type[Event], Callable[[SweepState, Any], None]] = {
    SweepPlanned: _sweep_planned,
    DriverStarted: _driver_started,
    DriverEnded: _driver_ended,
    SweepExtended: _sweep_extended,
    LimitReached: _limit_reached,
    SearchOver: _search_over,
    TrialStarted: _trial_started,
    EpochReported: _epoch_reported,
    TrialLost: _trial_lost,
    TrialSetAside: _trial_set_aside,
    TrialEnded: _trial_ended,
    PromotionDecided: _promotion_decided,
    TestOpened: _test_opened,
    ChampionSet: _champion_set,
}
