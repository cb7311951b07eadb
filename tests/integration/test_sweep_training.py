"""Test sweeps of real training runs: Ray, reused actors and kills must not change a single number."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import matplotlib
import pytest

import orchestrator
from orchestrator.audit.reproduce import reproduce
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.sweep.driver import resume
from orchestrator.sweep.hooks import Hooks, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import follow
from search_spaces.ranges import Range
from tests.kit import notebooks, scenes
from tests.kit.sweeps import journal_path
from training.selection import Protocol

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS = 3
UNTRACKED = DriveOptions(hooks=Hooks(make_tracker=make_no_tracker), progress=False)
DRIVE = (
    "import sys; from orchestrator.sweep.hooks import *; from orchestrator.sweep.options import *; "
    "from orchestrator.sweep.driver import *; "
    "resume(sys.argv[1], DriveOptions(hooks=Hooks(make_tracker=make_no_tracker)))"
)
TRAIN = """
import json, sys
from training.config.run import TrainConfig
from training.loop.run import TrainingRun
run = TrainingRun(TrainConfig.from_flat(json.loads(sys.argv[1])))
print(json.dumps([run.train_epoch() for _ in range(run.config.loop.epochs)]))
"""


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
        base=scenes.tiny_config({"loop.epochs": EPOCHS}).flatten(),
        protocol=Protocol(),
        ranges={"method.spbc_weight": Range(type="float", low=0, high=2)},
        num_trials=2,
        concurrency=1,
        startup_trials=2,
    )
    create_sweep(plan.id, plan.to_json())
    return plan


def epochs_of(plan: SweepPlan) -> list[tuple[int, int, dict[str, float]]]:
    """Return what the journal has, in order of trial and epoch, except times."""
    reports = [event for event in follow(journal_path(plan))[0] if isinstance(event, EpochReported)]
    return sorted((event.trial, event.epoch, without_times(event.metrics)) for event in reports)


def without_times(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.fixture(scope="module")
def _prepared() -> None:
    scenes.prepare_tiny()


@pytest.mark.usefixtures("_prepared")
@pytest.mark.long
def test_reused_actors_and_kills_change_no_number() -> None:
    plan, killed = make_plan("tiny-00000001"), make_plan("tiny-00000002")
    outcome = resume(plan.id, UNTRACKED)
    undisturbed = epochs_of(plan)
    assert [(trial, epoch) for trial, epoch, _ in undisturbed] == [
        (trial, epoch) for trial in (0, 1) for epoch in (1, 2, 3)
    ]

    # Trial 1 ran in the actor of trial 0; here it has a process to itself.
    config = trial_config(plan, outcome.records[1].params).flatten()
    fresh = subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(config)], capture_output=True, text=True, check=True
    )
    assert [metrics for trial, _, metrics in undisturbed if trial == 1] == [
        without_times(metrics) for metrics in json.loads(fresh.stdout)
    ]
    again = reproduce(f"{plan.id}/1", UNTRACKED)
    assert (again.num_epochs, again.differences) == (EPOCHS, ())
    assert set(again.conditions) <= {"commit", "changes"}, "somebody may commit to this checkout while a test runs"

    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVE, killed.id], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while len(epochs_of(killed)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 2 <= len(epochs_of(killed)) < 6
    resumed = resume(killed.id, UNTRACKED)
    assert [record.params for record in resumed.records] == [record.params for record in outcome.records]
    assert epochs_of(killed) == undisturbed


def test_the_notebook_that_reads_a_sweep_runs_one_from_python() -> None:
    notebooks.check_outputs("read_a_sweep")
    with matplotlib.rc_context({"backend": "agg"}):
        variables = notebooks.run_cells("read_a_sweep", {"TRIALS": 2, "EPOCHS": 3, "IMAGES": 64})
    sweep = variables["sweep"]
    assert sweep.summary.state == "FINISHED"
    assert list(sweep.trials.trial) == [0, 1]
    with pytest.raises(orchestrator.UserError, match="already exists"):
        orchestrator.run_sweep(variables["plan"])
