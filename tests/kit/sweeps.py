"""Plans and journals written by hand, for tests that need a sweep's folder but no sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep_folder.events import DriverEnded, DriverStarted, EpochReported, Event, TrialEnded, TrialStarted
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
from orchestrator.sweep_folder.records import Cause, TrialState
from training.config.run import TrainConfig
from training.selection import Protocol

START_MS = 1_700_000_000_000
PROVENANCE = {
    "commit": "c0ffee",
    "dirty": "false",
    "lock_hash": "10c4",
    "data_hash": "da7a",
    "weights_hash": "3e1647",
    "training_seed": "0",
}


def make_sweep(sweep_id: str = "digits-00000001", **changes: Any) -> SweepPlan:
    """Return a small plan, and make its folder under the home."""
    base = TrainConfig.from_flat({"data.image_size": 40, "loop.epochs": 3, "loop.recipe": "digits"}).flatten()
    plan: dict[str, Any] = {
        "id": sweep_id,
        "name": sweep_id.rpartition("-")[0],
        "kind": "sweep",
        "created": START_MS / 1000,
        "space": "digits",
        "space_text": "dataset: digits\n",
        "dataset": "digits",
        "method": "ignore",
        "base": base,
        "ranges": {},
        "start_from": (),
        "num_trials": 3,
        "concurrency": 2,
        "sampler": "tpe",
        "search_seed": 0,
        "startup_trials": 1,
        "scheduler": "asha",
        "grace_epochs": 1,
        "reduction_factor": 3.0,
        "protocol": Protocol(),
        "resources": Resources(),
        "storage": None,
        "cap_gib": 1.0,
    }
    made = SweepPlan(**(plan | changes))
    create(made)
    return made


def create(plan: SweepPlan) -> None:
    """Make a plan's folder under the home."""
    create_sweep(plan.id, plan.to_json())


def journal_path(plan: SweepPlan) -> Path:
    """Return the path of a plan's journal."""
    return sweep_dir(plan.id) / JOURNAL_FILE


def write_events(plan: SweepPlan, events: Iterable[Event]) -> None:
    """Append events to a plan's journal, each at its own ``time_ms``."""
    with Journal.open(journal_path(plan)) as journal:
        for event in events:
            journal.append(event)


def at(seconds: float) -> int:
    """Return a time in ms, this many seconds after the start of the tests' sweeps."""
    return START_MS + round(seconds * 1000)


def driver_started(
    plan: SweepPlan, at_s: float = 0, provenance: Mapping[str, str] = PROVENANCE, backup: str | None = None
) -> DriverStarted:
    """A driver's first event."""
    return DriverStarted(plan.id, "here", 1, plan.num_trials, dict(provenance), backup=backup, time_ms=at(at_s))


def driver_ended(at_s: float, state: str = "FINISHED", *, settled: bool | None = None) -> DriverEnded:
    """A driver's last event."""
    return DriverEnded(state, settled=settled, time_ms=at(at_s))


def trial_started(trial: int, at_s: float, attempt: int = 1, **params: Any) -> TrialStarted:
    """A trial handed out."""
    return TrialStarted(trial, attempt, params, "tpe", "here", 2, time_ms=at(at_s))


def epoch_reported(trial: int, epoch: int, at_s: float, score: float = 50.0, **more: Any) -> EpochReported:
    """An epoch of a trial."""
    metrics = {"epoch": epoch, "val/mAP": score, "val/observed_mAP": score - 1, "train/loss": 1 / epoch}
    metrics |= {
        "time/epoch_s": 1.0,
        "time/data_s": 0.1,
        "time/train_s": 0.5,
        "time/eval_s": 0.2,
        "time/checkpoint_s": 0.05,
    }
    return EpochReported(trial, epoch, metrics, time_ms=at(at_s), **more)


def trial_ended(
    trial: int, at_s: float, state: str = "COMPLETE", cause: str | None = None, message: str | None = None
) -> TrialEnded:
    """The end of a trial."""
    return TrialEnded(trial, TrialState(state), None if cause is None else Cause(cause), message, time_ms=at(at_s))


def whole_sweep(plan: SweepPlan) -> list[Event]:
    """A sweep that was interrupted once: trial 0 finished, 1 was pruned, 2 failed; 3 continued afterwards."""
    return [
        driver_started(plan),
        trial_started(0, 1, 1, **{"method.cam_threshold": 0.5}),
        trial_started(1, 1, 1, **{"method.cam_threshold": 0.6}),
        epoch_reported(0, 1, 3, 60.0, queue_s=0.25, start_s=0.5),
        epoch_reported(1, 1, 4, 40.0),
        trial_ended(1, 4.1, "PRUNED"),
        trial_started(2, 4.2),
        epoch_reported(0, 2, 5, 70.0),
        trial_ended(2, 5.5, "FAILED", "NAN", "loss must be finite"),
        epoch_reported(0, 3, 6, 65.0),
        trial_ended(0, 6.1),
        trial_started(3, 6.2),
        epoch_reported(3, 1, 7, 50.0),
        driver_ended(7.5, "INTERRUPTED"),
        driver_started(plan, 20),
        trial_started(3, 21, attempt=2),
        epoch_reported(3, 2, 23, 55.0),
        epoch_reported(3, 3, 24, 80.0),
        trial_ended(3, 24.1),
        driver_ended(25),
    ]
