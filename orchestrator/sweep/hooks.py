"""Stand-ins for the parts around a sweep, for tests and benchmarks: training, tracking and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.origin import prepare_inputs
from training.config.run import TrainConfig

if TYPE_CHECKING:
    from orchestrator.trials.actor import MakeRun

DRAIN_S = 60.0
"""How long the driver waits for an unreachable MLflow after the last trial."""


class TrackerLike(Protocol):
    """Follows the journal while the sweep runs; :class:`orchestrator.tracking.tracker.Tracker` does."""

    problem: str | None

    def start(self) -> None:
        """Start following; return at once."""

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        """Write what is missing; return whether everything was written."""


class NoTracker:
    """Follows nothing."""

    # It never has a problem, so a sweep without tracking counts as fully tracked.
    problem: str | None = None

    def start(self) -> None:
        pass

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        return True


def make_mlflow_tracker(plan: SweepPlan, journal: Path) -> TrackerLike:
    """Return the writer to MLflow."""
    # Imported late: tests and benchmarks without tracking never load MLflow.
    from orchestrator.tracking.tracker import Tracker

    return Tracker(plan, journal)


def make_no_tracker(plan: SweepPlan, journal: Path) -> TrackerLike:
    """Return a tracker that writes nothing."""
    return NoTracker()


@dataclass(frozen=True)
class Hooks:
    """What a test or a benchmark can replace; the defaults are the real implementations.

    Attributes:
        make_run: Builds the run of a trial, in its actor; None builds a ``TrainingRun``.
        make_tracker: Builds the tracker that follows the journal.
        prepare_inputs: Prepares the data and weights of a configuration, and returns their hashes.
    """

    # None instead of a default, because importing TrainingRun here would import torch into the driver.
    make_run: MakeRun | None = None
    make_tracker: Callable[[SweepPlan, Path], TrackerLike] = make_mlflow_tracker
    prepare_inputs: Callable[[TrainConfig, Callable[[str], None]], dict[str, str]] = prepare_inputs


REAL = Hooks()
