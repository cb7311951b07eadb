"""Count what a sweep has reached and spent with each of its trials, as metrics of its own run in MLflow."""

from __future__ import annotations

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, best

NUM_ENDED = "trials_ended"
"""The step, too: it says how far the metrics of a sweep have been written."""


class SweepMetrics:
    """The metrics of a sweep whose trials end one after another.

    Attributes:
        num_ended: How many have ended.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.num_ended = 0
        self._protocol, self._hours = plan.protocol, 0.0
        self._best: TrialRecord | None = None
        self._resources = plan.resources
        self._spent = "gpu_hours" if plan.resources.gpus_per_worker else "cpu_hours"

    def add(self, record: TrialRecord) -> dict[str, float]:
        """Return the metrics after one more trial has ended: the best score so far, and the hours of all that ended."""
        self.num_ended += 1
        self._hours += self._resources.hours(record.held_s)
        self._best = best([record] if self._best is None else [self._best, record], self._protocol)
        value = None if self._best is None else self._best.value(self._protocol)
        found = {} if value is None else {f"best/{self._protocol.metric}": value}
        return {**found, self._spent: self._hours, NUM_ENDED: float(self.num_ended)}
