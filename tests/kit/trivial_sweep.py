"""A sweep of trivial runs as a program of its own, so that it can be killed: ``python -m tests.kit.trivial_sweep ID``.

The first call starts the sweep, later ones resume it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.signals import run_program
from orchestrator.sweep.driver import INTERRUPTED, resume, run_sweep
from orchestrator.sweep.hooks import Hooks, make_mlflow_tracker, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from search_spaces.ranges import Range
from tests.kit.trivial_run import TrivialRuns
from training import machine
from training.config.run import TrainConfig
from training.selection import Protocol


def trivial_plan(sweep_id: str, *, trials: int, epochs: int, **changes: Any) -> SweepPlan:
    """Return the plan of a sweep over two weights, two trials at a time, by TPE and ASHA."""
    settings: dict[str, Any] = {
        "kind": "sweep",
        "ranges": {
            "method.spbc_weight": Range(type="float", low=0, high=2),
            "method.reg_weight": Range(type="float", low=0.01, high=1, log=True),
        },
        "start_from": ({"method.spbc_weight": 0.5, "method.reg_weight": 0.1},),
        "num_trials": trials,
        "concurrency": 2,
        "startup_trials": min(10, trials // 2),
        "scheduler": "asha",
        "reduction_factor": 3.0,
        "grace_epochs": 1,
    }
    return SweepPlan(
        id=sweep_id,
        name=sweep_id.rpartition("-")[0],
        created=time.time(),
        space="trivial",
        space_text="# Trivial runs: nothing is trained.\n",
        dataset="trivial",
        method="ignore",
        protocol=Protocol(),
        base=TrainConfig.from_flat({"loop.epochs": epochs}).flatten(),
        **(settings | changes),
    )


def trivial_hooks(runs: TrivialRuns, *, tracking: bool) -> Hooks:
    """Return the hooks that replace real runs by trivial ones."""
    return Hooks(
        make_run=runs,
        make_tracker=make_mlflow_tracker if tracking else make_no_tracker,
        prepare_inputs=lambda config, say: {
            "data_hash": "trivial",
            "weights_hash": "trivial",
            "true_labels": "available",
        },
    )


def main() -> int:
    """Run or resume, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("id")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--epoch-s", type=float, default=0.1)
    parser.add_argument("--no-tracking", action="store_true")
    parser.add_argument("--backup")
    parser.add_argument("--storage")
    parser.add_argument("--address")
    parser.add_argument("--machine", help="run as if in the container of this name")
    parser.add_argument("--steal-lease", action="store_true")
    parser.add_argument("--resources", default="{}", help="as JSON")
    parser.add_argument("--runs", default="{}", help="settings of the runs, as JSON")
    parser.add_argument("--changes", default="{}", help="of the plan, as JSON")
    arguments = parser.parse_args()
    runs = TrivialRuns(**{"epoch_s": arguments.epoch_s, **json.loads(arguments.runs)})
    hooks = trivial_hooks(runs, tracking=not arguments.no_tracking)
    if arguments.machine:
        patch.object(machine, "this_machine", return_value=arguments.machine).start()
    options = DriveOptions(address=arguments.address, steal_lease=arguments.steal_lease, hooks=hooks)
    if (sweep_dir(arguments.id) / "plan.json").exists():
        outcome = resume(arguments.id, replace(options, allow_changed=True))
    else:
        changes = {
            "storage": arguments.storage,
            "resources": Resources(**json.loads(arguments.resources)),
            **json.loads(arguments.changes),
        }
        if "ranges" in changes:
            changes["ranges"] = {key: Range.model_validate(found) for key, found in changes["ranges"].items()}
        plan = trivial_plan(arguments.id, trials=arguments.trials, epochs=arguments.epochs, **changes)
        outcome = run_sweep(plan, replace(options, backup=arguments.backup))
    return 130 if outcome.state == INTERRUPTED else 0


if __name__ == "__main__":
    run_program(main)
