"""Notices trials that hang, or take longer than their plan allows."""

from __future__ import annotations

import time
from collections.abc import Iterable

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.trials.limit import held_s
from training.metric_names import TIME_EPOCH_S

_LEAST_SILENCE_S = 600.0
_SILENT_EPOCHS = 20
"""A trial hangs if it reports nothing for this many times its longest epoch, and at least ``_LEAST_SILENCE_S``."""
_SET_UP_S = 3600.0
"""Minimum time that an attempt has until its first report: a node may have to copy the data first."""
_FIRST_SILENCE_S = 6 * 3600.0
"""Time allowed for the first epoch of a sweep, when the length of an epoch is not known yet."""


class OverdueTrials:
    """Says which running trials are overdue; waits for a process, and times when the driver slept, do not count.

    Args:
        plan: The sweep.
        records: Its trials so far.

    Attributes:
        working_since: Trial -> since when (Unix time in s) the process of its attempt has been running.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord]) -> None:
        self.working_since: dict[int, float] = {}
        self._time_limit_s = plan.time_limit_s
        self._absences: list[tuple[float, float]] = []
        self._longest_s = {record.trial: _longest_epoch(record) for record in records}
        self._longest_of_all_s = max(self._longest_s.values(), default=0.0)

    def note_start(self, trial: int) -> None:
        """Record that a trial was handed out, and waits for its process."""
        self.working_since.pop(trial, None)

    def note_work(self, trial: int) -> None:
        """Record that the process of a trial has started: from now on it must report."""
        self.working_since.setdefault(trial, time.time())

    def note_epoch(self, trial: int, took_s: float) -> None:
        """Record how long an epoch took."""
        self._longest_s[trial] = max(self._longest_s.get(trial, 0.0), took_s)
        self._longest_of_all_s = max(self._longest_of_all_s, took_s)

    def note_absence(self, seconds: float) -> None:
        """Record that this driver was asleep until now, as on a closed laptop; that time does not count as silence."""
        self._absences.append((time.time(), seconds))

    def describe(self, record: TrialRecord) -> str | None:
        """Say why a trial that runs is overdue, or return None."""
        now = time.time()
        began, last = (moment / 1000 for moment in record.spans[-1])
        # Until a trial has an epoch of its own, the sweep's longest epoch is the measure.
        longest_s = self._longest_s.get(record.trial, 0.0) if record.metrics else self._longest_of_all_s
        least_s = _LEAST_SILENCE_S
        if last == began:  # this attempt has reported no epoch yet
            if record.trial not in self.working_since:
                return None  # it may be waiting for a node
            last = self.working_since[record.trial]
            least_s = _SET_UP_S if record.metrics or longest_s else _FIRST_SILENCE_S
        taken_s = held_s(record, now, self.working_since.get(record.trial)) - self._absent_s(began)
        if self._time_limit_s is not None and taken_s > self._time_limit_s:
            return f"took longer than {self._time_limit_s:g} s"
        silent_s = now - last - self._absent_s(last)
        if silent_s > max(least_s, _SILENT_EPOCHS * longest_s):
            return f"reported nothing for {silent_s:.0f} s, after epochs of at most {longest_s:.0f} s"
        return None

    def _absent_s(self, since: float) -> float:
        return sum(seconds for end, seconds in self._absences if end > since)


def _longest_epoch(record: TrialRecord) -> float:
    return max((metrics.get(TIME_EPOCH_S, 0.0) for metrics in record.metrics.values()), default=0.0)
