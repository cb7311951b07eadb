"""MLflow's store: how it is reached, what is written into it and read from it. Beside registry.py the only module that
imports MLflow.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import PLAN_FILE, artifacts_dir, home
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import redact
from orchestrator.tracking.runs import NUM_TRIALS_TAG, SWEEP_TAG, Point, StoredRun
from training.metric_names import EPOCH

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SCHEMA_WAIT_S = 60.0
"""How long another process may take to make the schema of a new store; about 5 s when it has the processor to itself.
"""
SERVER_WAIT_S = 10.0
"""How long a server may be away before a verb that needs it gives up."""

_POLL_S = 1.0
_LOOK_WAIT_S = 3.0
_SWEEP_WORD = re.compile(r"[A-Za-z0-9._-]+")
_ID_SUFFIX = re.compile(r"-[0-9a-f]{8}")
_NOISY = r"(mlflow|sqlalchemy|alembic)(\.|$)"
_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is away is ours to wait for, where a stop can be heard.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # A connection to a database file that was moved away would go on writing into the file that nobody sees.
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "1",
}


@dataclass(frozen=True)
class LoggedSweep:
    """What the store has of a sweep, whoever wrote it.

    Attributes:
        plan_text: Its ``plan.json``.
        own: Its own run.
        trials: The runs of its trials, the oldest first.
    """

    plan_text: str
    own: StoredRun
    trials: tuple[StoredRun, ...]


class MlflowStore:
    """One dataset's experiment, as the runs writer sees it.

    Args:
        experiment: Its name; it is made if there is none.
        known: Whether the store was there before. A database file that has gone since is waited for, not made anew.

    Raises:
        Exception: Whatever MLflow raises while the store is away, is being made or is locked.
    """

    def __init__(self, experiment: str, *, known: bool = False) -> None:
        file = _database_file()
        if known and file is not None and not file.exists():
            raise FileNotFoundError(f"{file} was taken away")
        self._client = make_client()
        self._experiment_id = _find_or_create_experiment(self._client, experiment)
        self._file = _file_number(_database_file())

    def check(self) -> None:
        """Raise if the database file has been taken away or replaced since."""
        if self._file is not None and _file_number(_database_file()) != self._file:
            raise FileNotFoundError(f"{_database_file()} was taken away or replaced")

    def find_runs(self, sweep_id: str) -> list[StoredRun]:
        """Return the runs that carry the sweep's tag, the oldest first."""
        return [_stored(run) for run in _search(self._client, [self._experiment_id], _of_sweep(sweep_id), "ASC")]

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        """Make a run and return its id."""
        run = self._client.create_run(self._experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Write; all points in one transaction, at most 800 metrics."""
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
        """Set the status, and the end if there is one."""
        if end_ms is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_ms)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write an artifact."""
        self._client.log_text(run_id, text, path)

    def log_folder(self, run_id: str, folder: Path) -> None:
        """Write the files of a folder as artifacts."""
        self._client.log_artifacts(run_id, str(folder))


def tracking_uri() -> str:
    """Return the store's URI: ``$MLFLOW_TRACKING_URI``, else sqlite in the home.

    Raises:
        UserError: The home's path cannot be part of a URI.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen and set("?%") & set(str(home())):
        raise UserError(
            f"home must have a path without ? and % for MLflow's sqlite, but got home={home()}. Set ORCHESTRATOR_HOME."
        )
    return chosen or f"sqlite:///{home() / 'mlflow.db'}"


def make_client() -> MlflowClient:
    """Return a client of the store, with MLflow kept from writing to the terminal.

    The first client of a new sqlite store makes its schema, which takes some seconds.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=_NOISY)
    from mlflow import MlflowClient

    # Set again: whoever imported MLflow before us did so with its own level.
    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _make_database()
    return MlflowClient(tracking_uri())


def connect(wait_s: float | None = None) -> MlflowClient:
    """Return a client of a store that answers.

    Args:
        wait_s: How long to keep trying; None is 60 s for a database, whose schema may be in the making, and 10 s for a
            server.

    Raises:
        OrchestratorError: It does not.
    """
    if wait_s is None:
        wait_s = SCHEMA_WAIT_S if _is_database() else SERVER_WAIT_S
    deadline = time.monotonic() + wait_s
    while True:
        try:
            client = make_client()
            client.search_experiments(max_results=1)
            return client
        except Exception as error:
            if time.monotonic() > deadline:
                raise OrchestratorError(
                    f"MLflow's store must answer, but got {describe_problem(error)} from {redact(tracking_uri())}. "
                    f"Check MLFLOW_TRACKING_URI, or unset it to use sqlite in the home."
                ) from error
            time.sleep(_POLL_S)


def find_run(run_id: str) -> tuple[str, int | None]:
    """Return the sweep and the trial that a run belongs to; the trial is None for a sweep's own run.

    Raises:
        UserError: There is no such run, or it is none of ours.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = _stored(connect().get_run(run_id))
    except MlflowException:
        raise UserError(
            f"run must be in MLflow's store, but got run={run_id!r}. `orchestrator browse` shows those that are."
        ) from None
    if SWEEP_TAG not in run.tags:
        raise UserError(f"run must be one of a sweep, but got run={run_id!r}, which something else wrote.")
    return run.tags[SWEEP_TAG], run.trial


def find_sweep_run(plan: SweepPlan) -> tuple[str, str] | None:
    """Return the experiment id and the run id of a sweep's own run, or None if MLflow has none yet."""
    return _find_run_of(plan, None)


def find_trial_run(plan: SweepPlan, trial: int) -> str | None:
    """Return the run id of a trial, or None if MLflow has none yet."""
    found = _find_run_of(plan, trial)
    return None if found is None else found[1]


def is_shared() -> bool:
    """Whether the store is more than a file of this machine: sweeps of other homes are in it then."""
    return _database_file() is None


def find_logged_sweep(name: str | None) -> LoggedSweep | None:
    """Return what the store has of the sweep that an id, a name (its latest) or nothing (the latest of all) stands for,
    or None.

    It takes a handful of requests, and one more for every 1,000 trials.

    Raises:
        OrchestratorError: The store does not answer, or has no plan of the sweep yet.
    """
    file = _database_file()
    if (file is not None and not file.exists()) or (name is not None and not _SWEEP_WORD.fullmatch(name)):
        return None
    client = connect(_LOOK_WAIT_S)
    try:
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        # A name is how its ids begin; an underscore of LIKE is any character.
        wanted = f"tags.`{NUM_TRIALS_TAG}` LIKE '%' AND tags.`{SWEEP_TAG}` LIKE '{name or ''}%'"
        runs = _search(client, experiments, wanted, "DESC") if experiments else iter(())
        run = next((run for run in runs if _is_called(run.data.tags[SWEEP_TAG], name)), None)
        if run is None:
            return None
        own = _stored(run)
        stored = [
            _stored(run) for run in _search(client, [run.info.experiment_id], _of_sweep(own.tags[SWEEP_TAG]), "ASC")
        ]
    except Exception as error:
        raise OrchestratorError(
            f"MLflow's store must answer, but got {describe_problem(error)} from {redact(tracking_uri())}."
        ) from error
    return LoggedSweep(_read_plan(client, own), own, tuple(run for run in stored if run.trial is not None))


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
            f"{PLAN_FILE} of {own.tags[SWEEP_TAG]} must be among its run's artifacts in MLflow at "
            f"{redact(tracking_uri())}, but got "
            f"{describe_problem(error)}. It comes with the first trial: try again in some seconds; "
            "else see that artifacts can be read from here."
        ) from error


def _of_sweep(sweep_id: str) -> str:
    return f"tags.`{SWEEP_TAG}` = '{sweep_id}'"


def _search(client: MlflowClient, experiments: list[str], wanted: str, order: str) -> Iterator[Run]:
    """Yield runs by their start, a page at a time."""
    token: str | None = None
    while True:
        page = client.search_runs(experiments, wanted, order_by=[f"attributes.start_time {order}"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _find_run_of(plan: SweepPlan, trial: int | None) -> tuple[str, str] | None:
    client = connect()
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
        int(run.info.start_time),
        metrics,
    )


def _find_or_create_experiment(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server has its own place for artifacts; a database has none, and MLflow would take the current folder.
        location = (artifacts_dir() / name).as_uri() if _is_database() else None
        return str(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment must not be deleted, but got experiment={name!r}. Restore it: mlflow experiments restore"
        )
    return str(experiment.experiment_id)


def _is_database() -> bool:
    return urlsplit(tracking_uri()).scheme.split("+")[0] in {"sqlite", "postgresql", "mysql", "mssql"}


def _database_file() -> Path | None:
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _make_database() -> None:
    """Make the sqlite store under another name and put it into place whole: a kill amid MLflow's migrations leaves one
    beyond repair.
    """
    from mlflow import MlflowClient

    file = _database_file()
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            draft.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{draft}")
            # Not renamed: a store that somebody put there meanwhile must not be lost under ours.
            with suppress(FileExistsError):
                os.link(draft, file)
            draft.unlink()


def _file_number(file: Path | None) -> tuple[int, int] | None:
    if file is None or not file.exists():
        return None
    status = file.stat()
    return status.st_dev, status.st_ino


def describe_problem(error: Exception) -> str:
    """Return in one line what a call into the store said, without passwords."""
    lines = str(error).strip().splitlines() or [""]
    ours = isinstance(error, UserError | OrchestratorError)
    return redact(lines[0] if ours else f"{type(error).__name__}: {lines[0]}"[:300])
