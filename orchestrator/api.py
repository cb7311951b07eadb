"""What ``import orchestrator`` offers: open a sweep, plan and run one, load a promoted model.

Every function raises what the command line prints: UserError for the caller's mistake, OrchestratorError for a failure.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import require_home
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.results.summary import SweepSummary, summarise, summarise_recalled
from orchestrator.results.tables import make_epochs, make_leaderboard, make_trials
from orchestrator.sweep_folder.records import TrialState, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.lookup import find_or_recall
from orchestrator.tracking.reading import read_sweep
from training.config.run import Scalar, TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.sweep.driver import SweepOutcome
    from training.inference.predictor import DeviceName, Predictor


class Sweep:
    """A sweep, training, ablation or promotion, as it was when it was opened; open it again to see what is new.

    Columns are named like settings (`optim.lr`) and metrics (`val/mAP`). Scores are in percent, times that end in `_s`
    in seconds, other times in UTC. Counts are `Int64` and scores `float64`; what is missing is `NA` or `NaN`.

    Attributes:
        plan: What was planned: settings, ranges, protocol.
        summary: How it is doing, as `orchestrator status` shows it.
    """

    def __init__(self, plan: SweepPlan, state: SweepState, summary: SweepSummary) -> None:
        self.plan, self.summary = plan, summary
        self._state = state

    @property
    def id(self) -> str:
        """Its id, such as `digits-0a1b2c3d`."""
        return self.plan.id

    @property
    def metric(self) -> str:
        """The metric that ranks its trials, such as `val/mAP`."""
        return self.plan.protocol.metric

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The trials, best first, as `orchestrator leaderboard --csv` prints them.

        Columns: `rank` (only of COMPLETE trials), `trial`, `state`, `value` (the score: `metric` at the chosen epoch),
        `epoch` (the chosen one), `last_epoch`, a column for each searched setting, for a promotion each `test/` metric,
        `origin`, `run_s`, `attempts`, `cause` and `message` of a failure.
        """
        return make_leaderboard(self.plan, self._state)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial, in their order, for analysis.

        Columns: `trial`, `state`, `origin` (what proposed it), a column for each searched setting, every metric at the
        chosen epoch, `epoch`, `last_epoch`, `started` and `ended` (UTC), `run_s`, `queue_s` (waiting), `start_s`
        (starting its process), `attempts`, `cause` and `message` of a failure.
        """
        return make_trials(self.plan, self._state)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per trial and epoch: `trial`, `epoch` (from 1), and a column for each metric."""
        return make_epochs(self._state)

    def config(self, trial: int | None = None) -> TrainConfig:
        """Return the complete settings of a trial, by default of the best one.

        Raises:
            UserError: There is no such trial, or none was completed.
        """
        records = self._state.records
        winner = best(records.values(), self.plan.protocol)
        if trial is None and winner is None:
            raise UserError(f"No trial of {self.id} was completed, so there is no best one. Name one: config(0)")
        record = winner if trial is None else records.get(trial)
        if record is None:
            raise UserError(f"{self.id} has no trial {trial}; it has {len(records)}, numbered from 0.")
        return trial_config(self.plan, record.params)

    def __repr__(self) -> str:
        """Return id, state and score in one line."""
        found, counts = self.summary.best, self.summary.num_ended
        text = (
            f"Sweep {self.id}: {self.plan.method} on {self.plan.dataset}, {self.summary.state}, {counts} trials ended"
        )
        return f"<{text}>" if found is None else f"<{text}, best {self.metric} {found.value:.2f} (trial {found.trial})>"


def open_sweep(name: str | None = None) -> Sweep:
    """Open a sweep, training, ablation or promotion.

    Args:
        name: Its id or name; None is the latest. One that is not in this home is read from MLflow, which has the chosen
            and the last epoch of each trial.

    Raises:
        UserError: There is no such sweep.
        OrchestratorError: Its files are damaged, or MLflow does not answer.
    """
    found = find_or_recall(name)
    if isinstance(found, str):
        return Sweep(*read_sweep(found), summarise(found))
    return Sweep(found.plan, found.state, summarise_recalled(found))


def make_plan(
    space: str | Path,
    *,
    method: str | None = None,
    recipe: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    startup_trials: int | None = None,
    concurrency: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, Scalar] | None = None,
    name: str | None = None,
    storage: str | None = None,
    address: str | None = None,
) -> SweepPlan:
    """Plan a sweep, as `orchestrator plan` does; `print(plan)` shows what it would run. Nothing is written.

    Args:
        space: A shipped search space, such as `digits`, or a YAML file.
        method: Label of a method in the space; by default its first.
        recipe: `common` or `published`.
        trials: Number of trials; by default the space's.
        epochs: Full length of a trial; by default the space's.
        startup_trials: Random trials before the search learns from them; by default the space's.
        concurrency: Trials at a time; by default as many as fit.
        seed: Seed of the search.
        settings: Dotted key -> value, as `--set`; a key that is set is not searched.
        name: Name of the sweep; by default the space's.
        storage: Folder or URI for checkpoints; by default the sweep's own folder.
        address: Address of the Ray cluster that the plan should fit; by default it fits this machine.

    Raises:
        UserError: An argument is wrong, or the name is taken.
        SpaceError: The search space is invalid; it is a ValueError that names file and line.
    """
    from orchestrator.cluster.size import count_machine
    from orchestrator.planning import plan
    from orchestrator.planning.request import PlanRequest
    from orchestrator.sweep_folder.index import require_free_name

    machine = count_machine(address)
    return plan.make_plan(
        PlanRequest(
            space,
            method=method,
            recipe=recipe,
            trials=trials,
            epochs=epochs,
            startup_trials=startup_trials,
            concurrency=concurrency,
            seed=seed,
            overrides=dict(settings or {}),
            name=None if name is None else require_free_name(name),
            storage=storage,
            num_cpus=machine.get("num_cpus"),
            num_gpus=machine.get("num_gpus"),
        )
    )


def run_sweep(
    plan: SweepPlan, *, address: str | None = None, backup: str | None = None, progress: bool = False
) -> Sweep:
    """Run a plan to its end, as `orchestrator sweep` does, and open it.

    Args:
        plan: What :func:`make_plan` returned; each plan runs once.
        address: Address of a Ray cluster; by default Ray is started on this machine.
        backup: URI to copy the journal to, so that another machine can continue.
        progress: Show the live table on stderr.

    Raises:
        UserError: The plan has run already, or data, model or machine do not fit it.
        OrchestratorError: Ray cannot be started, the disk is full, or no trial was completed.
        KeyboardInterrupt: It was interrupted; the message has the command that continues it.
    """
    from orchestrator.planning.start_check import require_startable
    from orchestrator.report.in_mlflow import log_report
    from orchestrator.sweep.driver import run_sweep as drive
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.uris import absolute_uri, require_safe_uri

    require_safe_uri("backup", backup)
    require_startable(plan, address)
    options = DriveOptions(address, backup=None if backup is None else absolute_uri(backup), progress=progress)
    outcome = drive(plan, options)
    if outcome.state == "INTERRUPTED":
        raise KeyboardInterrupt(f"Continue it: orchestrator resume {plan.id}{options.repeated_flags()}")
    _keep_results(plan.id)
    report_problem = None if outcome.tracking_problem else log_report(plan.id)
    _warn(outcome, report_problem)
    if outcome.best is None:
        raise OrchestratorError(f"No trial of {plan.id} was completed. See why: orchestrator leaderboard {plan.id}")
    return open_sweep(plan.id)


def load_model(name: str | Path, device: DeviceName = "auto") -> Predictor:
    """Load a promoted model: `load_model("digits").predict_folder("photos").table.to_pandas()`.

    Args:
        name: `NAME@champion`, `NAME/VERSION`, a model's folder, or the name of a dataset that has just one champion.
        device: `cpu`, `cuda`, or `auto`: a GPU if there is one.

    Raises:
        UserError: No such model exists, or there is no GPU.
        OrchestratorError: MLflow does not answer.
    """
    from orchestrator.tracking.registry import find_model
    from training.inference.predictor import Predictor, choose_device

    require_home()
    folder = find_model(str(name))
    try:
        return Predictor.load(folder, choose_device(device))
    except ValueError as error:  # not a model folder, or no GPU
        raise UserError(f"{error}.") from None


def _keep_results(sweep_id: str) -> None:
    from orchestrator.sweep_folder.rows import write_results

    try:
        write_results(*read_sweep(sweep_id))
    # The journal has all of it, so a full disk loses nothing.
    except OSError as error:
        warnings.warn(f"The results could not be written as Parquet ({error}).", RuntimeWarning, stacklevel=3)


def _warn(outcome: SweepOutcome, report_problem: str | None) -> None:
    sweep = outcome.plan.id
    failed = sum(record.state is TrialState.FAILED for record in outcome.records)
    problems = {
        f"MLflow lacks some of it ({outcome.tracking_problem}): orchestrator browse {sweep}": outcome.tracking_problem,
        f"MLflow has no report of it ({report_problem}): orchestrator report {sweep}": report_problem,
        f"The backup is incomplete ({outcome.backup_problem}): orchestrator resume {sweep}": outcome.backup_problem,
        f"{failed} of {len(outcome.records)} trials failed. See why: orchestrator leaderboard {sweep}": failed,
    }
    for text, found in problems.items():
        if found:
            warnings.warn(text, RuntimeWarning, stacklevel=3)
