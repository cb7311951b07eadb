"""A search that never ran, with all that a report shows: stopped, failed and lost trials, rejection, times."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import (
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    TrialEnded,
    TrialLost,
    TrialStarted,
)
from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.state import SweepState
from search_spaces.ranges import Range
from tests.kit.sweeps import START_MS
from tests.kit.trivial_sweep import trivial_plan
from training.config.run import Scalar

NUM_EPOCHS = 6
RANGES = {
    "method.cam_threshold": Range(type="float", low=0.3, high=0.9),
    "method.spbc_weight": Range(type="float", low=0, high=2),
    "method.reg_weight": Range(type="float", low=0.01, high=1, log=True),
    "optim.batch_size": Range(type="categorical", choices=[64, 16, 32]),
}


def search_plan(num_trials: int, sweep_id: str = "search-00000001", **changes: Any) -> SweepPlan:
    """Return the plan of a search over tau, both weights and the batch size, two trials at a time, with ASHA."""
    settings: dict[str, Any] = {"ranges": RANGES, "start_from": (), "grace_epochs": 2, "created": START_MS / 1000}
    plan = trivial_plan(sweep_id, trials=num_trials, epochs=NUM_EPOCHS)
    return replace(plan, **(settings | changes))


def search_state(plan: SweepPlan, **how: Any) -> SweepState:
    """Return the state after such a search."""
    state = SweepState()
    for event in search_events(plan, **how):
        state.apply(event)
    return state


def search_events(plan: SweepPlan, *, noise: float = 0.5, message: str = "loss must be finite") -> Iterator[Event]:
    """Yield what a driver would have written.

    Tau has its optimum at 0.7 and is worth 12 points, reg weight 6 (at 0.1); the SPBC weight and the batch size do
    nothing. Every seventh trial is lost once, every eleventh fails, and of each three one is stopped at epoch 2.

    Args:
        plan: Its number of trials, and its grid if it has one, decide what is tried.
        noise: Deviation of a score, in points.
        message: Of the trials that failed.
    """
    dice, free_at = random.Random(0), [0.0, 0.0]
    yield DriverStarted(plan.id, "here", 1, plan.num_trials, {"data_hash": "da7a", "commit": "c0ffee"}, time_ms=_at(0))
    for trial, params in enumerate(_points(plan, dice)):
        worker = trial % 2
        now = free_at[worker] + 0.5
        yield TrialStarted(trial, 1, params, plan.sampler, "here", 1, time_ms=_at(now))
        if trial % 7 == 6:
            yield TrialLost(trial, Cause.LOST, "its process died", time_ms=_at(now + 1))
            now += 2
            yield TrialStarted(trial, 2, params, plan.sampler, "here", 1, time_ms=_at(now))
        end, num_epochs = _fate(plan, trial)
        for epoch in range(1, num_epochs + 1):
            now += 1.25
            metrics = {"epoch": float(epoch), **_metrics(params, epoch, dice.gauss(0, noise))}
            yield EpochReported(
                trial,
                epoch,
                metrics,
                queue_s=0.1 if epoch == 1 else None,
                start_s=0.2 if epoch == 1 else None,
                time_ms=_at(now),
            )
        free_at[worker] = now + 0.1
        failed = end is TrialState.FAILED
        yield TrialEnded(
            trial, end, Cause.NAN if failed else None, message if failed else None, time_ms=_at(free_at[worker])
        )
    yield DriverEnded("FINISHED", time_ms=_at(max(free_at) + 1))


def _at(seconds: float) -> int:
    return START_MS + round(1000 * seconds)


def _points(plan: SweepPlan, dice: random.Random) -> Iterator[dict[str, Scalar]]:
    for _ in range(plan.num_trials):
        yield {
            "method.cam_threshold": dice.uniform(0.3, 0.9),
            "method.spbc_weight": dice.uniform(0, 2),
            "method.reg_weight": 10 ** dice.uniform(-2, 0),
            "optim.batch_size": dice.choice([64, 16, 32]),
        }


def _fate(plan: SweepPlan, trial: int) -> tuple[TrialState, int]:
    if trial % 11 == 10:
        return TrialState.FAILED, 1
    if plan.scheduler == "asha" and trial % 3 == 1:
        return TrialState.PRUNED, 2
    return TrialState.COMPLETE, NUM_EPOCHS


def _metrics(params: dict[str, Scalar], epoch: int, error: float) -> dict[str, float]:
    tau, reg = params["method.cam_threshold"], params["method.reg_weight"]
    assert isinstance(tau, float)
    assert isinstance(reg, float)
    score = 85 - 75 * (tau - 0.7) ** 2 - 6 * (math.log10(reg) + 1) ** 2 - 10 / epoch + error
    return {
        "val/mAP": score,
        "val/observed_mAP": score - 5,
        "train/rejection_precision": 0.3 + 0.4 * tau,
        "train/rejection_recall": 1 - tau * epoch / 10,
        "train/rejection_lift": 1.5 + tau,
        "train/rejected_frac": 0.2,
        "train/mask_kept_frac": 1 - tau,
        "time/epoch_s": 1.0,
        "time/data_s": 0.1,
        "time/train_s": 0.6,
        "time/eval_s": 0.2,
        "time/checkpoint_s": 0.05,
    }
