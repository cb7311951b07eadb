"""What a sweep has spent, next to what was planned: on which trials, on lost attempts, and on idle resources."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.durations import format_hours
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.counts import counted

IDLE = "idle"
LOST = "LOST"
"""The outcome of an attempt that was cut short, so that its trial was handed out again."""
_MOST_LISTED = 8
_NAMES = {
    TrialState.PRUNED: "in stopped trials",
    TrialState.FAILED: "in failed trials",
    LOST: "in attempts that were cut short",
    IDLE: "idle",
}


@dataclass(frozen=True)
class Spending:
    """Hours of GPUs, or of CPUs if the trials use no GPU.

    Attributes:
        unit: ``GPU-hours`` or ``CPU-hours``.
        spent: By all trials, without waits for a process.
        parts: What came of the time of all places at which a trial can run: COMPLETE, PRUNED, FAILED, LOST, ..., idle.
        planned_p50, planned_p90: For the present number of trials; None if nothing was known.
        limit: ``--max-gpu-hours``, if there is one.
        limit_message: Why the limit has ended the sweep, if it has.
        price_per_hour: If the user said so.
    """

    unit: str
    spent: float
    parts: Mapping[str, float]
    planned_p50: float | None = None
    planned_p90: float | None = None
    limit: float | None = None
    limit_message: str | None = None
    price_per_hour: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self)

    @property
    def planned(self) -> str | None:
        """The planned hours as text; None if nothing was known."""
        if self.planned_p50 is None or self.planned_p90 is None:
            return None
        return f"{format_hours(self.planned_p50)} (p50) to {format_hours(self.planned_p90)} (p90)"

    @property
    def shares(self) -> list[str]:
        """What share of the time came to nothing, and why: ``12 % in stopped trials``."""
        total = sum(self.parts.values())
        wasted = {name: self.parts.get(part, 0.0) for part, name in _NAMES.items()}
        return [f"{100 * hours / total:.0f} % {name}" for name, hours in wasted.items() if hours > 0.005 * total > 0]

    def __str__(self) -> str:
        """Return a line: planned against spent, and what came to nothing."""
        text = f"{format_hours(self.spent)} {self.unit}"
        if self.planned is not None:
            text += f", planned {self.planned}"
        if self.limit is not None:
            text += f", limit {self.limit:g} with the promotion"
        if self.price_per_hour is not None:
            text += f", {self.spent * self.price_per_hour:,.2f} at {self.price_per_hour:g} each"
        return text + (f"; {', '.join(self.shares)}" if self.shares else "")


def sum_spending(plan: SweepPlan, state: SweepState) -> Spending:
    """Return what a sweep has spent so far."""
    now_ms = time.time() * 1000 if state.driver_state == "RUNNING" else None
    records = list(state.records.values())
    parts = sum_outcomes_s(records, state.driven_s(now_ms), count_lanes(plan, records))
    hours, cost = plan.resources.hours, plan.cost
    # Of an extended sweep, each trial is expected to take as much as planned.
    scale = state.total(plan.num_trials) / max(1, plan.num_trials)
    limit = state.limit if state.is_limited else None
    return Spending(
        unit=plan.resources.hours_unit,
        spent=hours(sum(record.held_s for record in records)),
        parts={name: hours(seconds) for name, seconds in parts.items()},
        planned_p50=None if cost is None else scale * cost.p50_hours,
        planned_p90=None if cost is None else scale * cost.p90_hours,
        limit=state.max_gpu_hours or plan.max_gpu_hours,
        limit_message=None if limit is None else limit.message,
        price_per_hour=None if cost is None else cost.price_per_hour,
    )


def sum_outcomes_s(records: list[TrialRecord], driven_s: float, num_lanes: int) -> dict[str, float]:
    """Return the seconds of all places at which trials run, by what came of them.

    Args:
        records: All trials.
        driven_s: Seconds in which a driver was running.
        num_lanes: How many trials could run at a time.
    """
    spent: dict[str, float] = {}
    for record in records:
        for number, (start, end) in enumerate(record.spans):
            outcome = outcome_of(record, number)
            spent[outcome] = spent.get(outcome, 0.0) + (end - start) / 1000
    return spent | {IDLE: max(0.0, driven_s * num_lanes - sum(spent.values()))}


def outcome_of(record: TrialRecord, attempt: int) -> str:
    """Return what came of an attempt (from 0): the state of its trial, or LOST if another one had to follow."""
    whole = (len(record.spans), record.set_aside_after)
    return str(record.state) if attempt + 1 in whole else LOST


def describe_devices(records: Iterable[TrialRecord]) -> str | None:
    """Say which trials ran on which hardware if they differ, so that nobody compares their times; else None."""
    trials: dict[str, list[int]] = {}
    for record in records:
        for device in record.devices:
            trials.setdefault(device, []).append(record.trial)
    if len(trials) <= 1:
        return None
    listed = "; ".join(
        f"{counted(len(found), 'trial')} on {device} ({_listed(found)})" for device, found in trials.items()
    )
    return f"times are not comparable, because the hardware differs: {listed}"


def _listed(trials: list[int]) -> str:
    shown = ", ".join(map(str, sorted(trials)[:_MOST_LISTED]))
    return shown + (", ..." if len(trials) > _MOST_LISTED else "")


def count_lanes(plan: SweepPlan, records: list[TrialRecord]) -> int:
    """Return how many trials could run at a time: as many as planned, or as did."""
    # At equal times, ends come first: who starts then takes the place that has just become free.
    changes = sorted(
        [(end, -1) for record in records for _, end in record.spans]
        + [(start, 1) for record in records for start, _ in record.spans]
    )
    running, most = 0, plan.concurrency
    for _, change in changes:
        running += change
        most = max(most, running)
    return most
