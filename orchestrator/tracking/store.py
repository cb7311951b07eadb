"""Read and write the runs of sweeps in MLflow."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import PLAN_FILE, artifacts_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import describe_error, redact
from orchestrator.tracking.connection import (
    all_pages,
    answering,
    database_file,
    file_number,
    is_database,
    is_missing,
    make_client,
    tracking_uri,
)
from orchestrator.tracking.dataset_use import DatasetUse
from orchestrator.tracking.run_tags import NUM_TRIALS_TAG, SUITE_TAG, SWEEP_TAG, chosen_metric
from orchestrator.tracking.runs import Point, StoredRun
from orchestrator.tracking.ui import run_path
from training.metric_names import EPOCH
from training.selection import Protocol

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Short, because somebody is waiting for a table, and MLflow is only the second place to look.
_LOOK_WAIT_S = 3.0
_SWEEP_WORD = re.compile(r"[A-Za-z0-9._-]+")
_ID_SUFFIX = re.compile(r"-[0-9a-f]{8}")


@dataclass(frozen=True)
class LoggedSweep:
    """A sweep as MLflow has it, from any home.

    Attributes:
        plan_text: Its ``plan.json``.
        own: The sweep's own run.
        trials: The runs of its trials, oldest first.
    """

    plan_text: str
    own: StoredRun
    trials: tuple[StoredRun, ...]


class MlflowStore:
    """One experiment, as a writer of runs sees it: that of a dataset, or of all benchmarks.

    Args:
        experiment: Its name; it is created if it does not exist.
        about: Its description; by default that of a dataset's experiment.
        known: Whether the database already existed; if its file has since gone, it is not created again.

    Raises:
        Exception: Whatever MLflow raises while it is unreachable, being set up or locked.
    """

    def __init__(self, experiment: str, about: str | None = None, *, known: bool = False) -> None:
        file = database_file()
        # A database that vanished must not be replaced by an empty one: the user may just be moving it.
        if known and file is not None and not file.exists():
            raise FileNotFoundError(f"{file} is gone")
        self._client = make_client()
        self._experiment_id = _find_or_create_experiment(self._client, experiment, _experiment_tags(experiment, about))
        # Recorded after connecting: only now does a new database have a file.
        self._file = file_number(database_file())

    def check(self) -> None:
        """Raise if the database file has since been removed or replaced."""
        if self._file is not None and file_number(database_file()) != self._file:
            raise FileNotFoundError(f"{database_file()} was removed or replaced")

    def find_runs(self, of: str, tag: str = SWEEP_TAG) -> list[StoredRun]:
        """Return the runs with this value of a tag, by default those of a sweep, oldest first."""
        return [_stored(run) for run in _search(self._client, [self._experiment_id], f"tags.`{tag}` = '{of}'", "ASC")]

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        run = self._client.create_run(self._experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Write to a run; all points in one transaction, at most 800 metrics."""
        # Importing MLflow takes seconds; the driver's other threads should not wait for it at start-up.
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), point.time_ms, point.step)
                for point in points
                for key, value in point.metrics.items()
            ],
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set the status, and the end time if there is one."""
        # set_terminated would add an end time to a run that is still going.
        if end_ms is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_ms)

    def log_dataset(self, run_id: str, dataset: DatasetUse) -> None:
        """Say which dataset a run used; saying it again changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            dataset.name, dataset.digest, "local", dataset.source, profile=json.dumps(dict(dataset.counts))
        )
        used = DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)])
        self._client.log_inputs(run_id, datasets=[used])

    def set_view(self, tags: Mapping[str, str]) -> None:
        """Write tags of the experiment that do not exist yet."""
        _add_experiment_tags(self._client, self._client.get_experiment(self._experiment_id), tags)

    def run_path(self, run_id: str) -> str:
        """Return the address of a run's page, without the server's."""
        return run_path(self._experiment_id, run_id)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write an artifact."""
        self._client.log_text(run_id, text, path)

    def log_folder(self, run_id: str, folder: Path) -> None:
        """Write the files of a folder as artifacts."""
        self._client.log_artifacts(run_id, str(folder))


def find_run(run_id: str) -> tuple[str, int | None]:
    """Return the sweep and the trial that a run belongs to; the trial is None for a sweep's own run.

    Raises:
        UserError: No such run exists, or another program wrote it.
        MlflowFailedError: MLflow does not answer.
    """
    with answering("Without it, name a trial by its sweep: orchestrator train --from SWEEP/TRIAL") as client:
        try:
            run = _stored(client.get_run(run_id))
        except Exception as error:
            if not is_missing(error):
                raise
            raise UserError(
                f"MLflow at {redact(tracking_uri())} has no run {run_id!r}. `orchestrator browse` shows the existing "
                "runs."
            ) from None
    if SUITE_TAG in run.tags and SWEEP_TAG not in run.tags:
        raise UserError(
            f"Run {run_id!r} is that of the benchmark {run.tags[SUITE_TAG]}, not of a trial; its page names its sweeps."
        )
    # The server may be shared with other programs.
    if SWEEP_TAG not in run.tags:
        raise UserError(f"Run {run_id!r} does not belong to a sweep: another program wrote it.")
    return run.tags[SWEEP_TAG], run.trial


def find_sweep_run(plan: SweepPlan) -> tuple[str, str] | None:
    """Return the experiment id and the run id of a sweep's own run, or None if MLflow has none yet."""
    return _find_run_of(plan, None)


def find_own_runs(experiments: Iterable[str]) -> dict[str, tuple[str, StoredRun]]:
    """Return sweep -> experiment id and the sweep's own run, of all sweeps of some experiments; the older run counts.

    Raises:
        OrchestratorError: MLflow does not answer.
    """
    found: dict[str, tuple[str, StoredRun]] = {}
    with answering() as client:
        for name in experiments:
            experiment = client.get_experiment_by_name(name)
            if experiment is not None:
                own_id = str(experiment.experiment_id)
                for run in _search(client, [own_id], f"tags.`{NUM_TRIALS_TAG}` LIKE '%'", "ASC"):
                    found.setdefault(run.data.tags[SWEEP_TAG], (own_id, _stored(run)))
    return found


def log_text(plan: SweepPlan, path: str, text: str) -> None:
    """Write an artifact of a sweep's own run; nothing happens if MLflow has no such run.

    Raises:
        OrchestratorError: MLflow does not answer.
    """
    file = database_file()
    # Looking for the run must not create a database.
    found = None if file is not None and not file.exists() else find_sweep_run(plan)
    if found is not None:
        with answering() as client:
            client.log_text(found[1], text, path)


def has_experiment_tag(experiment_id: str, key: str) -> bool:
    """Return whether an experiment has a tag."""
    with answering() as client:
        return key in client.get_experiment(experiment_id).tags


def find_experiment_with(name: str, key: str) -> str | None:
    """Return the id of an experiment that has a tag, or None."""
    with answering() as client:
        experiment = client.get_experiment_by_name(name)
        return None if experiment is None or key not in experiment.tags else str(experiment.experiment_id)


def find_suite_run(suite_id: str, experiment: str) -> tuple[str, str] | None:
    """Return the experiment id and the run id of a benchmark's own run, or None if MLflow has none yet."""
    with answering() as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return None
        runs = _search(client, [found.experiment_id], f"tags.`{SUITE_TAG}` = '{suite_id}'", "ASC")
        return next(((str(found.experiment_id), str(run.info.run_id)) for run in runs), None)


def find_trial_run(plan: SweepPlan, trial: int) -> str | None:
    """Return the run id of a trial, or None if MLflow has none yet."""
    found = _find_run_of(plan, trial)
    return None if found is None else found[1]


def find_logged_sweep(name: str | None) -> LoggedSweep | None:
    """Return MLflow's sweep with an id, with a name (its latest), or the latest of all if ``name`` is None; else None.

    This takes a few requests, and one more for every 1,000 trials.

    Raises:
        OrchestratorError: MLflow does not answer, or has no plan of the sweep yet.
    """
    # A look-up must not create a database, and a path or a glob cannot be the name of a sweep.
    file = database_file()
    if (file is not None and not file.exists()) or (name is not None and not _SWEEP_WORD.fullmatch(name)):
        return None
    with answering(wait_s=_LOOK_WAIT_S) as client:
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        # An id begins with its name. In LIKE an underscore matches any character, so the names are compared again.
        wanted = f"tags.`{NUM_TRIALS_TAG}` LIKE '%' AND tags.`{SWEEP_TAG}` LIKE '{name or ''}%'"
        runs = _search(client, experiments, wanted, "DESC") if experiments else iter(())
        # The newest first, so a name stands for its latest sweep.
        run = next((run for run in runs if _is_called(run.data.tags[SWEEP_TAG], name)), None)
        if run is None:
            return None
        own = _stored(run)
        stored = [
            _stored(run) for run in _search(client, [run.info.experiment_id], _of_sweep(own.tags[SWEEP_TAG]), "ASC")
        ]
        return LoggedSweep(_read_plan(client, own), own, tuple(run for run in stored if run.trial is not None))


def has_runs(sweep_id: str) -> bool:
    """Return whether MLflow has any run of a sweep.

    Raises:
        OrchestratorError: MLflow does not answer.
    """
    file = database_file()
    if file is not None and not file.exists():
        return False
    with answering(wait_s=_LOOK_WAIT_S) as client:
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        return bool(experiments) and any(_search(client, experiments, _of_sweep(sweep_id), "ASC"))


def read_histories(run_ids: Iterable[str], metric: str) -> dict[str, dict[int, float]]:
    """Return run id -> step -> value of a metric; one request for each run.

    Raises:
        OrchestratorError: MLflow does not answer.
    """
    with answering() as client:
        return {
            run_id: {point.step: point.value for point in client.get_metric_history(run_id, metric)}
            for run_id in run_ids
        }


def find_runs_of_trials(client: MlflowClient, plan: SweepPlan) -> dict[int, StoredRun]:
    """Return trial -> run; of two runs of one trial the older counts."""
    experiment = client.get_experiment_by_name(plan.dataset)
    runs = [] if experiment is None else _search(client, [experiment.experiment_id], _of_sweep(plan.id), "DESC")
    return {stored.trial: stored for stored in map(_stored, runs) if stored.trial is not None}


def _is_called(sweep_id: str, name: str | None) -> bool:
    return name in (None, sweep_id) or (
        sweep_id.startswith(str(name)) and bool(_ID_SUFFIX.fullmatch(sweep_id[len(str(name)) :]))
    )


def _read_plan(client: MlflowClient, own: StoredRun) -> str:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(own.run_id, PLAN_FILE, folder)).read_text(encoding="utf-8")
    except Exception as error:
        raise OrchestratorError(
            f"{PLAN_FILE} of {own.tags[SWEEP_TAG]} cannot be read from MLflow at {redact(tracking_uri())}: "
            f"{describe_error(error)}. It is written with the first trial, so try again in a few seconds. If that "
            f"does not help, check that this machine can read MLflow's artifacts."
        ) from error


def _of_sweep(sweep_id: str) -> str:
    return f"tags.`{SWEEP_TAG}` = '{sweep_id}'"


def _search(client: MlflowClient, experiments: list[str], wanted: str, order: str) -> Iterator[Run]:
    """Yield runs by their start."""
    by_start = [f"attributes.start_time {order}"]
    return all_pages(lambda token: client.search_runs(experiments, wanted, order_by=by_start, page_token=token))


def _find_run_of(plan: SweepPlan, trial: int | None) -> tuple[str, str] | None:
    with answering() as client:
        experiment = client.get_experiment_by_name(plan.dataset)
        if experiment is None:
            return None
        runs = _search(client, [experiment.experiment_id], _of_sweep(plan.id), "ASC")
        found = (stored for stored in map(_stored, runs) if stored.trial == trial)
        return next(((experiment.experiment_id, stored.run_id) for stored in found), None)


def _stored(run: Run) -> StoredRun:
    metrics = dict(run.data.metrics)
    return StoredRun(
        run.info.run_id,
        run.info.status,
        dict(run.data.tags),
        int(metrics.get(EPOCH, 0)),
        bool(run.data.params),
        bool(run.inputs and run.inputs.dataset_inputs),
        int(run.info.start_time),
        metrics,
    )


def _find_or_create_experiment(client: MlflowClient, name: str, tags: Mapping[str, str]) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server knows where its artifacts go. For a database, MLflow would put them into the current folder.
        location = (artifacts_dir() / name).as_uri() if is_database() else None
        return str(client.create_experiment(name, artifact_location=location, tags=dict(tags)))
    # MLflow keeps deleted experiments and refuses a second one of the same name.
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"Experiment {name!r} is deleted in MLflow. Restore it: mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}"
        )
    _add_experiment_tags(client, experiment, tags)
    return str(experiment.experiment_id)


def _experiment_tags(name: str, about: str | None) -> dict[str, str]:
    """Return what makes MLflow show an experiment as one of trained models, and not of language models' answers."""
    kind = {"mlflow.experimentKind": "custom_model_development"}
    if about is not None:
        return {**kind, "mlflow.note.content": about}
    return {
        **kind,
        "mlflow.note.content": (
            f"Sweeps, promotions and ablations on `{name}`, each with a run of its own above those of its trials. "
            "Scores are in percent; `chosen/...` is a trial's score at its chosen epoch. To see the trials of one "
            "sweep, the best first: `orchestrator browse SWEEP`"
        ),
        "mlflow.experiment.primaryMetric.name": chosen_metric(Protocol()),
    }


def _add_experiment_tags(client: MlflowClient, experiment: Experiment, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        # What is there may have been changed by a user.
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)
