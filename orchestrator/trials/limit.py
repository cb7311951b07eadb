"""Decide whether a sweep may go on below its limit of GPU-hours, so that what its promotion takes is still there.

Pure functions. All figures are seconds of one trial's resources; ``Resources.hours`` makes hours of them.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.durations import format_hours
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord
from training.metric_names import TIME_CHECKPOINT_S, TIME_EPOCH_S

_SLOW = 0.9
"""What has not run yet is expected to be as slow as the slowest tenth of the trials so far."""


@dataclass(frozen=True)
class Pace:
    """Seconds of an epoch, and of a trial until its first one."""

    epoch_s: float
    start_s: float = 0.0


@dataclass(frozen=True)
class Outlook:
    """What a sweep takes, in seconds of one trial's resources.

    Attributes:
        spent_s: So far.
        committed_s: What runs, and what would be started, may still take.
        reserved_s: What a promotion takes afterwards.
    """

    spent_s: float
    committed_s: float
    reserved_s: float

    @property
    def total_s(self) -> float:
        """All three."""
        return self.spent_s + self.committed_s + self.reserved_s


class PastTrials:
    """The trials of a sweep that have ended, added up: a sweep may have thousands, and each report asks.

    Args:
        plan: The sweep.
        records: Its trials; only those that have ended are added.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> None:
        self.spent_s, self.epochs = 0.0, 0
        self._plan = plan
        self._epochs_s: list[float] = []
        self._starts_s: list[float] = []
        for record in records:
            if record.ended:
                self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Add one more."""
        self.spent_s += record.held_s
        self.epochs += record.last_epoch
        if record.metrics:
            insort(self._epochs_s, _epoch_s(record))
            insort(self._starts_s, _start_s(record))

    def measure_pace(self, open_records: Iterable[TrialRecord]) -> Pace:
        """Return the pace of the slowest tenth of the trials so far; before the first epoch, the slow one of the plan.

        Args:
            open_records: The trials that have not ended; they count until some have ended.
        """
        if self._epochs_s:
            place = math.ceil(_SLOW * len(self._epochs_s)) - 1
            return Pace(self._epochs_s[place], self._starts_s[place])
        known = [record for record in open_records if record.metrics]
        if known:
            return Pace(max(map(_epoch_s, known)), max(map(_start_s, known)))
        cost = self._plan.cost
        return Pace(0.0 if cost is None else cost.p90_hours / self._plan.resources.hours(1.0) / cost.epochs)


def project_spending(
    plan: SweepPlan,
    past: PastTrials,
    running: Sequence[TrialRecord],
    waiting: Sequence[TrialRecord],
    now_s: float,
    working_since_s: Mapping[int, float],
    *,
    ahead: Sequence[int] = (),
    to_the_end: bool = True,
    goal: Callable[[TrialRecord], int] | None = None,
) -> Outlook:
    """Return what a sweep has spent, may still spend, and has to keep.

    Args:
        plan: The sweep.
        past: Its trials that have ended.
        running: Those that are handed out.
        waiting: Those that are to be handed out again, or are set aside.
        now_s: The time, in Unix seconds.
        working_since_s: Trial -> since when the process of its attempt has been running.
        ahead: Epochs of each attempt that would be handed out now, or is kept for later.
        to_the_end: Whether what runs is counted to its goal, and not only to its next epoch.
        goal: Trial -> the epoch to which it will run; None is the full length.
    """
    pace = past.measure_pace([*running, *waiting])
    spent_s = past.spent_s + sum(record.held_s for record in waiting)
    spent_s += sum(held_s(record, now_s, working_since_s.get(record.trial)) for record in running)
    left = [max(0, (goal(record) if goal else plan.epochs) - record.last_epoch) for record in running]
    epochs = sum(left) if to_the_end else sum(min(1, each) for each in left)
    starts = len(ahead) + sum(not record.metrics for record in running)
    done = past.epochs + sum(record.last_epoch for record in (*running, *waiting))
    reserved = plan.count_reserved((done + epochs + sum(ahead)) / plan.epochs)
    return Outlook(
        spent_s=spent_s,
        committed_s=(epochs + sum(ahead)) * pace.epoch_s + starts * pace.start_s,
        reserved_s=reserved * (plan.epochs * pace.epoch_s + pace.start_s),
    )


def describe_limit(plan: SweepPlan, max_hours: float, spending: Outlook) -> str:
    """Say why nothing more starts."""
    unit = plan.resources.hours_unit
    spent, reserved = (format_hours(plan.resources.hours(found)) for found in (spending.spent_s, spending.reserved_s))
    after, what = ("the reported runs", "run") if plan.kind in ("race", "promote") else ("a promotion", "trial")
    kept = f", and {after} may take {reserved}" if spending.reserved_s else ""
    return f"the limit of {max_hours:g} {unit} does not allow another {what}: {spent} are spent{kept}"


def find_least_hours(plan: SweepPlan) -> float | None:
    """Return below which limit not even the first trial of a plan would start; None if nothing is known of its time."""
    if plan.cost is None:
        return None
    outlook = project_spending(plan, PastTrials(plan), [], [], 0.0, {}, ahead=[plan.epochs])
    return plan.resources.hours(outlook.total_s)


def require_enough_hours(plan: SweepPlan) -> None:
    """Check that the limit of a plan allows one trial, before anything starts.

    Raises:
        UserError: It does not; the message has the least that would.
    """
    least = find_least_hours(plan)
    if plan.max_gpu_hours is None or least is None or least <= plan.max_gpu_hours:
        return
    kept = " and its promotion" if plan.count_reserved(1.0) else ""
    raise UserError(
        f"--max-gpu-hours={plan.max_gpu_hours:g} is less than one trial{kept} may take, so nothing would run. Use at "
        f"least --max-gpu-hours {round_up(least):g}"
    )


def round_up(hours: float) -> float:
    """Return hours with two digits, never less: as a limit they are enough."""
    unit = 10.0 ** (math.floor(math.log10(hours)) - 1) if hours > 0 else 1.0
    return math.ceil(hours / unit) * unit


def _epoch_s(record: TrialRecord) -> float:
    """Return the mean seconds of a trial's epochs and checkpoints, as it has reported them."""
    # The time of its attempts is no measure: they also had epochs that a kill cut short.
    own_s = sum(epoch.get(TIME_EPOCH_S, 0.0) + epoch.get(TIME_CHECKPOINT_S, 0.0) for epoch in record.metrics.values())
    return (own_s or max(0.0, record.held_s - record.start_s)) / len(record.metrics)


def _start_s(record: TrialRecord) -> float:
    return record.start_s / max(1, record.attempts)


def held_s(record: TrialRecord, now_s: float, working_since_s: float | None) -> float:
    """Return for how many seconds a trial that runs has had its resources."""
    earlier = sum(end - start for start, end in record.spans[:-1]) / 1000
    start, last = (moment / 1000 for moment in record.spans[-1])
    if last == start:  # this attempt has not reported yet
        own = 0.0 if working_since_s is None else max(0.0, now_s - working_since_s)
        return max(0.0, earlier - record.queue_s) + own
    return max(0.0, earlier + now_s - start - record.queue_s)
