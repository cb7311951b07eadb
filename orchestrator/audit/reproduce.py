"""Run something again from its record, and compare every epoch with what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.audit.subject import Subject
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.plan import make_identity
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.provenance import UNKNOWN
from orchestrator.results.former_run import find_trial
from orchestrator.sweep.driver import SweepOutcome, resume, run_sweep
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.records import TrialRecord
from training.metric_names import ADDED_METRICS

# Times differ between any two runs.
_NOT_RESULTS = ("time/", "epoch")
_CONDITIONS = ("host", "python", "torch", "torchvision", "timm", "commit", "changes", "data_hash", "weights_hash")
_MAX_NAME = 52  # leaves room for the end that says what it is


@dataclass(frozen=True)
class Difference:
    """A figure that came out differently."""

    epoch: int
    metric: str
    recorded: float | None
    again: float | None

    def __str__(self) -> str:
        return f"epoch {self.epoch}, {self.metric}: {self.recorded} was recorded, {self.again} came out"


@dataclass(frozen=True)
class Reproduction:
    """How a run came out the second time.

    Attributes:
        run: ``SWEEP/TRIAL``.
        again: The id of the training that repeated it.
        state: How that training ended.
        num_epochs, num_figures: What was compared.
        differences: The figures that differ in any bit, the largest difference first.
        conditions: What was not the same: its name, as recorded and now.
    """

    run: str
    again: str
    state: str
    num_epochs: int
    num_figures: int
    differences: tuple[Difference, ...]
    conditions: Mapping[str, tuple[str, str]]

    @property
    def largest(self) -> float:
        """The largest difference of a score on validation data, in percentage points."""
        return max((_size(found) for found in self.differences if found.metric.startswith("val/")), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return what ``reproduce --json`` prints."""
        plain = vars(self) | {"equal": not self.differences, "largest_val_difference": self.largest}
        return plain | {"differences": [vars(found) for found in self.differences]}


def reproduce(run: str, options: DriveOptions = DEFAULT) -> Reproduction:
    """Train a run again from its record and compare all its epochs, to the bit.

    A reproduction that was interrupted is continued, and one that has ended is only compared again.

    Args:
        run: ``SWEEP/TRIAL`` or the id of a run in MLflow.
        options: How to run it.

    Raises:
        UserError: There is no such run, or it has no epoch to compare with.
        OrchestratorError: As :func:`orchestrator.sweep.driver.run_sweep`.
    """
    sweep_id, trial = find_trial(run)
    subject = Subject.read(sweep_id)
    record = subject.state.records.get(trial)
    if record is None or not record.metrics:
        raise UserError(f"{sweep_id}/{trial} has no epoch to compare with. See: orchestrator leaderboard {sweep_id}")
    planned = plan_reproduction(subject.plan, record)
    known = _find_same(planned)
    outcome = run_sweep(planned, options) if known is None else resume(known.id, options)
    return compare(subject, record, outcome, Subject.read(outcome.plan.id))


def plan_reproduction(plan: SweepPlan, record: TrialRecord) -> SweepPlan:
    """Plan one training with the settings and resources of a recorded run."""
    # At full length even if it was stopped early: its schedule was made for that, and the first epochs are compared.
    return replace(
        plan,
        **make_identity("train", f"{plan.name[:_MAX_NAME]}-reproduce"),
        ranges={},
        start_from=(dict(record.params),),
        num_trials=1,
        concurrency=1,
        startup_trials=0,
        scheduler="none",
        storage=None,
        notes=(),
        parent=f"{plan.id}/{record.trial}",
        time_limit_s=None,
        variants=(),
        backup=None,
        cost=None,
        max_gpu_hours=None,
        reserve=None,
    )


def _find_same(planned: SweepPlan) -> SweepPlan | None:
    for entry in list_sweeps(kinds={"train"}):
        if entry.name != planned.name:
            continue
        # One that another version wrote is no repetition by this one, and must not end the command.
        with suppress(OrchestratorError):
            if (plan := load_plan(entry.id)).parent == planned.parent:
                return plan
    return None


def compare(subject: Subject, record: TrialRecord, outcome: SweepOutcome, again: Subject) -> Reproduction:
    """Compare every metric of every recorded epoch but times."""
    repeated = again.state.records[0].metrics if 0 in again.state.records else {}
    differences, num_figures = [], 0
    for epoch, metrics in sorted(record.metrics.items()):
        theirs = repeated.get(epoch, {})
        # What an earlier version did not measure is no difference.
        for name in sorted({*metrics, *theirs} - (ADDED_METRICS - metrics.keys())):
            if not name.startswith(_NOT_RESULTS):
                num_figures += 1
                pair = metrics.get(name), theirs.get(name)
                if pair[0] != pair[1]:
                    differences.append(Difference(epoch, name, *pair))
    recorded, now = subject.origins.get(record.trial, {}), again.state.provenance
    pairs = {key: (recorded.get(key, UNKNOWN), now.get(key, UNKNOWN)) for key in _CONDITIONS}
    return Reproduction(
        f"{subject.id}/{record.trial}",
        outcome.plan.id,
        outcome.state,
        len(record.metrics),
        num_figures,
        tuple(sorted(differences, key=_size, reverse=True)),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    )


def _size(found: Difference) -> float:
    return math.inf if found.recorded is None or found.again is None else abs(found.recorded - found.again)
