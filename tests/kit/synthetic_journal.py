"""The journal of a sweep that never ran: any number of trials, in no time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.chain import seal_after
from orchestrator.sweep_folder.events import (
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    TrialEnded,
    TrialStarted,
    to_line,
)
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.sweep_folder.records import TrialState
from tests.kit.trivial_sweep import trivial_plan
from training.config.run import Scalar

NUM_EPOCHS = 3


def write_journal(sweep_id: str, num_trials: int, *, num_open: int = 0, sampler: str = "random") -> SweepPlan:
    """Make the folder of a sweep, and return its plan; all trials but the last ``num_open`` have ended, at epoch 3."""
    plan = trivial_plan(sweep_id, trials=num_trials, epochs=NUM_EPOCHS, sampler=sampler, scheduler="none")
    folder = create_sweep(plan.id, plan.to_json())
    lines = (to_line(event).removesuffix(b"\n") for event in make_events(plan, num_open=num_open))
    (folder / JOURNAL_FILE).write_bytes(b"".join(b"%s\n" % line for line in seal_after((), lines)))
    assert sweep_dir(sweep_id) == folder
    return plan


def make_events(plan: SweepPlan, *, num_open: int = 0) -> Iterator[Event]:
    """Yield what drivers would have written."""
    dice, now = random.Random(0), time.time_ns() // 1_000_000
    provenance = {"data_hash": "trivial", "weights_hash": "trivial", "true_labels": "available"}
    yield DriverStarted(plan.id, "here", 1, plan.num_trials, provenance, time_ms=now)
    for trial in range(plan.num_trials):
        weight = dice.uniform(0, 2)
        params: dict[str, Scalar] = {"method.spbc_weight": weight, "method.reg_weight": 10 ** dice.uniform(-2, 0)}
        yield TrialStarted(trial, 1, params, plan.sampler, "here", 1, time_ms=now + 30 * trial)
        is_open = trial >= plan.num_trials - num_open
        for epoch in range(1, NUM_EPOCHS + (not is_open)):
            score = 80 - 10 * abs(weight - 1) - 10 / epoch
            metrics = {"epoch": float(epoch), "val/mAP": score, "val/observed_mAP": score - 5}
            yield EpochReported(trial, epoch, metrics, time_ms=now + 30 * trial + 5 * epoch)
        if not is_open:
            yield TrialEnded(trial, TrialState.COMPLETE, time_ms=now + 30 * trial + 25)
    if not num_open:
        yield DriverEnded("FINISHED", time_ms=now + 30 * plan.num_trials)
