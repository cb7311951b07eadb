"""Test trials of two workers, on Ray Train inside Tune: as final runs, killed or not, and what is left of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from benchmarks.faults.cluster import FaultCluster
from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.hooks import Hooks, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.journal import follow
from orchestrator.sweep_folder.records import TrialState
from orchestrator.trials.pruner import Pruner
from tests.kit import scenes, sweeps
from tests.kit.trivial_run import TrivialRuns
from tests.kit.trivial_sweep import trivial_hooks, trivial_plan

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

EPOCHS = 4
NUM_SWEEPS = int(os.environ.get("NUM_SWEEPS", "3"))  # more of them in `make faults`
HOOKS = Hooks(make_tracker=make_no_tracker)


def _metrics(plan: SweepPlan) -> list[dict[str, float]]:
    """Every epoch in the order of the journal, without what depends on the clock."""
    events = [event for event in follow(sweeps.journal_path(plan))[0] if isinstance(event, EpochReported)]
    return [{name: value for name, value in event.metrics.items() if not name.startswith("time/")} for event in events]


def _kill_a_worker_after_an_epoch(plan: SweepPlan) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if sweeps.journal_path(plan).exists() and _metrics(plan):
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    return
        time.sleep(0.05)


@pytest.mark.long
def test_a_trial_of_two_workers_that_lost_one_equals_a_final_run_of_two() -> None:
    scenes.prepare_tiny()
    config: dict[str, Any] = {"loop.epochs": EPOCHS, "loop.seed": 1001}
    base: dict[str, Any] = {
        "base": scenes.tiny_config(config).flatten(),
        "ranges": {},
        "start_from": ({},),
        "num_trials": 1,
        "scheduler": "none",
    }
    two = Resources(workers=2)
    trial = replace(
        trivial_plan("trial-00000001", trials=1, epochs=EPOCHS), **base, dataset="digits", concurrency=1, resources=two
    )
    killer = threading.Thread(target=_kill_a_worker_after_an_epoch, args=(trial,), daemon=True)
    killer.start()
    (record,) = run_sweep(trial, DriveOptions(hooks=HOOKS, progress=False)).records
    killer.join()
    assert (record.state, record.attempts, sorted(record.metrics)) == (
        TrialState.COMPLETE,
        2,
        list(range(1, EPOCHS + 1)),
    )

    final = replace(make_promotion_plan(trial, {}, seeds=1, workers=2), start_from=({},))
    run_sweep(final, DriveOptions(hooks=HOOKS, progress=False))
    assert _metrics(trial) == _metrics(final)
    assert len(_metrics(trial)) == EPOCHS


@pytest.fixture
def cluster() -> Iterator[FaultCluster]:
    before = dict(os.environ)
    running = FaultCluster(num_nodes=1, num_cpus=2)
    try:
        yield running
    finally:
        left = running.shutdown()
        os.environ.clear()
        os.environ.update(before)
    assert left == []


@pytest.mark.timeout(3600)
@pytest.mark.long
def test_trials_stopped_after_one_report_leave_no_placement_group(
    cluster: FaultCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pruner, "cuts", lambda self, trial, epoch, value: True)
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            seen.append(len([name for name in cluster.groups() if name.startswith("trivial")]))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for number in range(NUM_SWEEPS):
            plan = trivial_plan(
                f"trivial-{number:08x}", trials=2, epochs=50, concurrency=1, resources=Resources(workers=2)
            )
            outcome = run_sweep(
                plan,
                DriveOptions(
                    address=cluster.address, hooks=trivial_hooks(TrivialRuns(), tracking=False), progress=False
                ),
            )
            assert [(record.state, record.last_epoch) for record in outcome.records] == [(TrialState.PRUNED, 1)] * 2
            assert cluster.wait_for_no_groups() == []
    finally:
        done.set()
        watching.join()
    assert max(seen) == 1, "one slot, one trial's workers at a time"
