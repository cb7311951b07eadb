"""What works beside a sweep and can be put in place of the real thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.identity import prepare_and_identify
from training.config.run import TrainConfig

if TYPE_CHECKING:
    from orchestrator.trials.actor import MakeRun

DRAIN_S = 60.0
"""How long a store may be away, after the last trial, before it is given up."""


class TrackerLike(Protocol):
    """What follows the journal beside the sweep; :class:`orchestrator.tracking.tracker.Tracker` is one."""

    problem: str | None

    def start(self) -> None:
        """Start following; return at once."""

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        """Write what is left; return whether all was written."""


class NoTracker:
    """Follows nothing."""

    problem: str | None = None

    def start(self) -> None:
        pass

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        return True


def make_mlflow_tracker(plan: SweepPlan, journal: Path) -> TrackerLike:
    """Return the writer to MLflow."""
    from orchestrator.tracking.tracker import Tracker

    return Tracker(plan, journal)


def make_no_tracker(plan: SweepPlan, journal: Path) -> TrackerLike:
    """Return what writes nowhere."""
    return NoTracker()


@dataclass(frozen=True)
class Hooks:
    """What a test or a benchmark puts in place of the real thing.

    Attributes:
        make_run: Builds the run of a trial, in its actor; None is ``TrainingRun``.
        make_tracker: Builds what follows the journal.
        identify: Prepares a configuration's data, saying so if that takes long, and returns its hashes.
    """

    make_run: MakeRun | None = None
    make_tracker: Callable[[SweepPlan, Path], TrackerLike] = make_mlflow_tracker
    identify: Callable[[TrainConfig, Callable[[str], None]], dict[str, str]] = prepare_and_identify


REAL = Hooks()
