"""Test real runs that stop by their own rule, with averaged weights: killed, resumed, promoted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.promote import promote
from orchestrator.sweep.driver import resume
from orchestrator.sweep.hooks import Hooks, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import follow
from orchestrator.sweep_folder.records import TrialState
from search_spaces.ranges import Range
from tests.kit import scenes
from tests.kit.sweeps import journal_path
from training.loop.checkpoint import CheckpointStore
from training.metric_names import TRAIN_STOPPED, VAL_AVERAGE_GAIN
from training.selection import Protocol, SelectBy

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

EPOCHS = 6
UNTRACKED = DriveOptions(hooks=Hooks(make_tracker=make_no_tracker), progress=False)
DRIVE = (
    "import sys; from orchestrator.sweep.hooks import *; from orchestrator.sweep.options import *; "
    "from orchestrator.sweep.driver import *; "
    "resume(sys.argv[1], DriveOptions(hooks=Hooks(make_tracker=make_no_tracker)))"
)
# A rate at which no run gets better epoch after epoch.
SETTINGS: dict[str, Any] = {
    "optim.lr": 0.5,
    "optim.schedule": "constant",
    "optim.average_decay": 0.5,
    "loop.epochs": EPOCHS,
    "loop.patience_epochs": 0,
    "loop.recipe": "published",
}


def make_plan(sweep_id: str) -> SweepPlan:
    plan = SweepPlan(
        id=sweep_id,
        name="tiny",
        kind="sweep",
        created=time.time(),
        space="tiny",
        space_text="",
        dataset="digits",
        method="ignore",
        base=scenes.tiny_config(SETTINGS).flatten(),
        protocol=Protocol(SelectBy.CLEAN_VAL, SelectBy.CLEAN_VAL),
        ranges={"method.spbc_weight": Range(type="categorical", choices=[0.0, 1.0])},
        start_from=(),
        sampler="grid",
        num_trials=2,
    )
    create_sweep(plan.id, plan.to_json())
    return plan


def epochs_of(plan: SweepPlan) -> list[tuple[int, int, dict[str, float]]]:
    """Return what the journal has, in order of trial and epoch, except times."""
    reports = [event for event in follow(journal_path(plan))[0] if isinstance(event, EpochReported)]
    return sorted(
        (
            event.trial,
            event.epoch,
            {name: value for name, value in event.metrics.items() if not name.startswith("time/")},
        )
        for event in reports
    )


def test_what_stops_is_complete() -> None:
    scenes.prepare_tiny()
    outcome = resume(make_plan("tiny-00000003").id, UNTRACKED)
    assert outcome.state == "FINISHED"
    for record in outcome.records:
        assert record.state is TrialState.COMPLETE
        assert 1 < record.last_epoch < EPOCHS
        assert [epoch for epoch, metrics in record.metrics.items() if TRAIN_STOPPED in metrics] == [record.last_epoch]
        assert all(VAL_AVERAGE_GAIN in metrics for metrics in record.metrics.values())


def test_what_stops_is_resumable_and_promotable() -> None:
    scenes.prepare_tiny()
    plan, killed = make_plan("tiny-00000003"), make_plan("tiny-00000004")
    resume(plan.id, UNTRACKED)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVE, killed.id], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not epochs_of(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 0 < len(epochs_of(killed)) < len(epochs_of(plan))
    resume(killed.id, UNTRACKED)
    assert epochs_of(killed) == epochs_of(plan)

    promoted = promote(plan.id, DriveOptions(progress=False, allow_changed=True), seeds=1)
    assert promoted.decision is not None
    last = max(epoch for _, epoch, _ in epochs_of(promoted.plan))
    assert last < EPOCHS
    assert [epoch for _, epoch, metrics in epochs_of(promoted.plan) if TRAIN_STOPPED in metrics] == [last]
    assert "test/mAP" in promoted.test[0]
    state = CheckpointStore(f"{checkpoint_uri(promoted.plan)}/t0000").load_best()
    assert state is not None
    assert state["config"]["loop.recipe"] == "published"
