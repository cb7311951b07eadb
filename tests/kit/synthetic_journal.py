"""The journal of a sweep that nobody ran: as many trials as one likes in no time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.sweep_folder.state import Event
from tests.kit.trivial_sweep import trivial_plan

NUM_EPOCHS = 3


def write_journal(sweep_id: str, num_trials: int, *, num_open: int = 0, sampler: str = "random") -> SweepPlan:
    """Make the folder of a sweep whose trials have ended, all but the last few, each with three epochs; return its
    plan.
    """
    plan = trivial_plan(sweep_id, trials=num_trials, epochs=NUM_EPOCHS, sampler=sampler, scheduler="none")
    folder = create_sweep(plan.id, plan.to_json())
    lines = (json.dumps(event, separators=(",", ":")) + "\n" for event in make_events(plan, num_open=num_open))
    (folder / JOURNAL_FILE).write_text("".join(lines))
    assert sweep_dir(sweep_id) == folder
    return plan


def make_events(plan: SweepPlan, *, num_open: int = 0) -> Iterator[Event]:
    """Yield what drivers would have written."""
    dice, now = random.Random(0), time.time_ns() // 1_000_000
    provenance = {"data_hash": "trivial", "weights_hash": "trivial", "true_labels": "available"}
    driver = {"sweep": plan.id, "host": "here", "pid": 1, "num_trials": plan.num_trials, "provenance": provenance}
    yield {"event": "driver_started", "time_ms": now, **driver}
    for trial in range(plan.num_trials):
        params = {"method.spbc_weight": dice.uniform(0, 2), "method.reg_weight": 10 ** dice.uniform(-2, 0)}
        started = {"trial": trial, "attempt": 1, "params": params, "origin": plan.sampler, "host": "here", "pid": 1}
        yield {"event": "trial_started", "time_ms": now + 30 * trial, **started}
        is_open = trial >= plan.num_trials - num_open
        for epoch in range(1, NUM_EPOCHS + (not is_open)):
            score = 80 - 10 * abs(params["method.spbc_weight"] - 1) - 10 / epoch
            metrics = {"epoch": float(epoch), "val/mAP": score, "val/observed_mAP": score - 5}
            yield {
                "event": "epoch_reported",
                "time_ms": now + 30 * trial + 5 * epoch,
                "trial": trial,
                "epoch": epoch,
                "metrics": metrics,
            }
        if not is_open:
            ended = {"trial": trial, "state": "COMPLETE", "cause": None, "message": None}
            yield {"event": "trial_ended", "time_ms": now + 30 * trial + 25, **ended}
    if not num_open:
        yield {"event": "driver_ended", "time_ms": now + 30 * plan.num_trials, "state": "FINISHED"}
