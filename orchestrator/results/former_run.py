"""Plan a training from a file of settings or an earlier run, as named by ``train --from``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.home import home
from orchestrator.planning.follow_up import FormerRun, make_rerun_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.run_config import read_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.sweep_folder.index import KIND_NOUNS, find_entry, find_sweep
from orchestrator.sweep_folder.records import best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep
from search_spaces.reader import YAML_SUFFIXES
from search_spaces.schema import shipped_spaces
from training.config.run import Scalar


def plan_rerun(request: PlanRequest) -> SweepPlan:
    """Plan one training with the settings of ``request.source``: a YAML file, an MLflow run or a trial.

    A file is looked up in the current folder, then in the home, where a promoted winner's file is.

    Raises:
        UserError: The file or run does not exist, or a flag is wrong.
        SpaceError: The file is invalid.
    """
    source = request.source
    assert source is not None
    file = _find_file(source)
    # A missing .yaml is reported as a missing file, not as an unknown run.
    if source.endswith(YAML_SUFFIXES) or file.is_file():
        return make_rerun_plan(request, FormerRun(read_config(file), source))
    sweep_id, trial = find_trial(source)
    plan, state = read_sweep(sweep_id)
    config = trial_config(plan, _trial_params(sweep_id, trial, state)).flatten()
    return make_rerun_plan(request, FormerRun(config, f"{sweep_id}/{trial}", plan))


def _find_file(source: str) -> Path:
    # `promote` names its file relative to the home, and the home need not be the current folder.
    here = Path(source).expanduser()
    return here if here.is_file() or not (home() / here).is_file() else home() / here


def find_trial(run: str) -> tuple[str, int]:
    """Return the sweep's id and the trial's number behind ``SWEEP/TRIAL`` or an MLflow run id.

    Raises:
        UserError: It is neither, or no such run exists.
    """
    sweep, slash, trial = run.rpartition("/")
    # MLflow ids are hexadecimal and never contain a slash.
    if not slash:
        _refuse_whole(run)
        return _find_logged(run)
    if not trial.isdecimal():
        raise UserError(
            f"In {run}, {trial!r} is not the number of a trial. `orchestrator leaderboard {sweep}` lists the trials."
        )
    return find_sweep(sweep), int(trial)


def _refuse_whole(word: str) -> None:
    """Refuse a sweep, or a search space, where a run is wanted."""
    entry = find_entry(word)
    if entry is not None:
        plan, state = read_sweep(entry.id)
        winner = best(state.records.values(), plan.protocol)
        which = "its best" if winner else "its first"
        raise UserError(
            f"{word} is {KIND_NOUNS[plan.kind]}, not one of its trials. Name a trial, for example {which}: "
            f"--from {entry.id}/{winner.trial if winner else 0}"
        )
    if word in shipped_spaces():
        raise UserError(f"{word} is a search space, not a run. Train it: orchestrator train {word}")


def _find_logged(run_id: str) -> tuple[str, int]:
    from orchestrator.tracking.store import find_run

    sweep_id, trial = find_run(run_id)
    if trial is None:
        raise UserError(
            f"{run_id} is the run of {sweep_id} itself, which has no settings. Name a trial: --from {sweep_id}/0"
        )
    return sweep_id, trial


def _trial_params(sweep_id: str, trial: int, state: SweepState) -> Mapping[str, Scalar]:
    records = state.records
    if trial not in records:
        if not records:
            raise UserError(f"{sweep_id} has no trials yet. See: orchestrator status {sweep_id}")
        raise UserError(
            f"{sweep_id} has no trial {trial}, only 0 to {max(records)}. See: orchestrator leaderboard {sweep_id}"
        )
    return records[trial].params
