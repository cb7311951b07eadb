"""Test what ``import orchestrator`` offers: its names, its tables, its errors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import orchestrator
from orchestrator import api
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from tests.kit.sweeps import make_sweep, whole_sweep, write_events

PARAMETERS = {
    "load_model": ["name", "device"],
    "make_plan": [
        *("space", "method", "recipe", "trials", "epochs", "startup_trials", "concurrency", "seed", "settings"),
        *("name", "storage", "address"),
    ],
    "open_sweep": ["name"],
    "read_results": ["place"],
    "run_sweep": ["plan", "address", "backup", "progress"],
}
MEMBERS = {"config", "epochs", "id", "leaderboard", "metric", "trials"}


def test_the_names_stay_as_they_are() -> None:
    assert sorted(orchestrator.__all__) == sorted([*PARAMETERS, "OrchestratorError", "Sweep", "SweepPlan", "UserError"])
    assert dir(orchestrator) == orchestrator.__all__
    for name, parameters in PARAMETERS.items():
        function = getattr(orchestrator, name)
        assert list(inspect.signature(function).parameters) == parameters
        assert inspect.getdoc(function)
    assert {name for name in vars(orchestrator.Sweep) if not name.startswith("_")} == MEMBERS
    with pytest.raises(AttributeError, match="has no attribute 'open_swep'"):
        orchestrator.open_swep  # type: ignore[attr-defined]  # noqa: B018


def test_importing_is_quick() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "numpy", "pandas", "pydantic", "rich", "pyarrow")
    code = f"import sys, orchestrator, training; print(sorted(set({heavy}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = f"import sys, orchestrator; orchestrator.open_sweep; print(sorted(set({heavy[:4]}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_sweep_is_three_tables(finished: str) -> None:
    sweep = orchestrator.open_sweep()
    assert (sweep.id, sweep.metric) == (finished, "val/mAP")
    assert repr(sweep) == (
        f"<Sweep {finished}: ignore on digits, FINISHED, 4 trials ended, best val/mAP 80.00 (trial 3)>"
    )
    board = sweep.leaderboard
    assert list(board[["rank", "trial", "state", "value"]].itertuples(index=False, name=None))[:2] == [
        (1, 3, "COMPLETE", 80.0),
        (2, 0, "COMPLETE", 70.0),
    ]
    assert board["rank"].isna().sum() == 2
    assert [str(board[name].dtype) for name in ("rank", "value", "run_s")] == ["Int64", "float64", "float64"]
    trials = sweep.trials
    assert list(trials.trial) == [0, 1, 2, 3]
    assert list(trials["val/mAP"].round())[0::3] == [70, 80], "at the chosen epoch, not at the last"
    assert list(trials.epoch)[0::3] == [2, 3]
    assert isinstance(trials.started.dtype, pd.DatetimeTZDtype)
    assert trials.cause.dropna().tolist() == ["NAN"]
    assert len(sweep.epochs) == trials.last_epoch.sum()
    assert sweep.epochs.pivot(index="epoch", columns="trial", values="val/mAP")[0].tolist() == [60.0, 70.0, 65.0]
    key = "method.cam_threshold"
    assert trials[key].notna().tolist() == [True, True, False, False], "as the journal has it"
    assert [sweep.config(trial).flatten()[key] for trial in (0, 1)] == trials[key][:2].tolist()
    assert sweep.config() == sweep.config(3)


def test_a_sweep_without_trials_has_empty_tables(home: Path) -> None:
    plan = make_sweep(num_trials=4)
    sweep = orchestrator.open_sweep(plan.name)
    assert [len(table) for table in (sweep.leaderboard, sweep.trials, sweep.epochs)] == [0, 0, 0]
    assert list(sweep.epochs.columns) == ["trial", "epoch"]
    with pytest.raises(orchestrator.UserError, match="no best one"):
        sweep.config()
    write_events(plan, whole_sweep(plan))
    with pytest.raises(orchestrator.UserError, match=r"has no trial 9; it has 4, numbered from 0"):
        orchestrator.open_sweep(plan.id).config(9)


def test_errors_are_those_of_the_command_line(home: Path) -> None:
    with pytest.raises(orchestrator.UserError, match=r"No sweeps in .*Start one"):
        orchestrator.open_sweep()
    with pytest.raises(ValueError, match="Did you mean digits"):
        orchestrator.make_plan("digit")
    with pytest.raises(ValueError, match=r"optim\.lr"):
        orchestrator.make_plan("digits", settings={"optim.lrr": 0.1})
    with pytest.raises(orchestrator.UserError, match="no model is registered yet"):
        orchestrator.load_model(home)
    with pytest.raises(orchestrator.UserError, match="storage"):
        orchestrator.make_plan("digits", storage="s3://key:secret@bucket/x")


def test_a_plan_is_printed_as_the_verb_prints_it(home: Path) -> None:
    plan = orchestrator.make_plan("digits", trials=3, epochs=8, settings={"optim.lr": 1e-3}, name="mine")
    assert (plan.num_trials, plan.epochs, plan.name, plan.base["optim.lr"]) == (3, 8, "mine", 1e-3)
    assert str(plan).startswith("sweep mine: ignore on digits, from digits\n")


def test_an_end_that_is_no_result_is_told(monkeypatch: pytest.MonkeyPatch, finished: str) -> None:
    plan = orchestrator.open_sweep(finished).plan
    failed = TrialRecord(0, {}, "random", 0, TrialState.FAILED)
    outcomes = iter(
        [
            SweepOutcome(plan, (), "INTERRUPTED", 1.0),
            SweepOutcome(plan, (failed,), "FINISHED", 1.0, tracking_problem="it is down"),
        ]
    )
    monkeypatch.setattr("orchestrator.sweep.driver.run_sweep", lambda *_: next(outcomes))
    with pytest.raises(KeyboardInterrupt, match=f"orchestrator resume {finished}"):
        api.run_sweep(plan)
    with (
        pytest.warns(RuntimeWarning, match="1 of 1 trials failed"),
        pytest.warns(RuntimeWarning, match="MLflow lacks some of it"),
        pytest.raises(orchestrator.OrchestratorError, match="No trial of .* was completed"),
    ):
        api.run_sweep(plan)
    with pytest.raises(orchestrator.UserError, match="No store of nowhere"):
        api.run_sweep(replace(plan, dataset="nowhere"))
