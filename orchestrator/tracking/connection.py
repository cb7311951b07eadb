"""Connect to MLflow: its URI, a client that is known to get an answer, and errors that say why there is none.

A missing answer is never treated as an empty one: whatever MLflow raises becomes an :class:`MlflowFailedError`, except
when it says that something does not exist.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.health import TIMEOUT_S, Answer, ask_database, ask_mlflow
from orchestrator.home import home
from orchestrator.redaction import describe_error, redact
from orchestrator.tracking.moved_home import follow_home
from orchestrator.writable import find_obstacle

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMA_WAIT_S = 60.0
"""How long to wait for another process to create the schema of a new database; that takes about 5 s on an idle CPU."""
SERVER_WAIT_S = 10.0
"""How long a server may be unreachable before a verb that needs it gives up."""
ADVICE = (
    "Sweeps do not need MLflow: they continue, and what is missing there is written later. "
    "See what is wrong: orchestrator doctor"
)

_POLL_S = 1.0
_DAMAGED = ("database disk image is malformed", "file is not a database")
_ANSWER_S = 10.0  # a server with one worker may be busy
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SCHEMES = ("http", "https", *_DATABASES, "databricks", "databricks-uc", "uc")
_PLUGINS = "mlflow.tracking_store"
"""The entry points by which packages teach MLflow other schemes."""
_NOISY = r"(mlflow|sqlalchemy|alembic)(\.|$)"
_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # We wait for an unreachable server ourselves, so that a stop request is noticed.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # PostgreSQL's client would wait forever for a server that accepts and never replies.
    "PGCONNECT_TIMEOUT": "20",
    # An old connection would keep writing to a database file that has been moved away.
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "1",
}


# MLflow's answers when the requested object does not exist. An alias that is not set counts as an invalid parameter.
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}


class BrokenDatabaseError(OrchestratorError):
    """The file of MLflow's database is damaged, or something else."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} is damaged, or not a database. Restore it from a copy, or move it away: then `orchestrator "
            f"browse SWEEP` writes the runs of a sweep to a new one, and `orchestrator resume PROMOTION` registers its "
            f"champion again."
        )


class MlflowFailedError(OrchestratorError):
    """MLflow could not be reached, or reported an error.

    Args:
        problem: What MLflow or the connection reported, in one line.
        advice: What still works, and the next command.
    """

    def __init__(self, problem: str, advice: str = ADVICE) -> None:
        super().__init__(f"MLflow at {redact(tracking_uri())} failed: {problem}. {advice}")
        self.problem = problem


def tracking_uri() -> str:
    """Return MLflow's URI: ``$MLFLOW_TRACKING_URI``, or sqlite in the home.

    Raises:
        UserError: The home's path cannot be part of a URI.
    """
    # sqlite URIs take what follows ? as options and % as an escape.
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen and set("?%") & set(str(home())):
        raise UserError(
            f"MLflow's sqlite cannot be in {home()}: the path of the home must not contain ? or %. Set "
            f"ORCHESTRATOR_HOME to another folder."
        )
    return chosen or f"sqlite:///{home() / 'mlflow.db'}"


def check_uri() -> None:
    """Check that MLflow can use its URI.

    Raises:
        UserError: ``$MLFLOW_TRACKING_URI`` is neither a server nor a database.
    """
    uri = tracking_uri()
    # "databricks" alone is a URI too. Of any other word, MLflow would make a folder, into which it cannot write.
    scheme = urlsplit(uri).scheme.split("+")[0] or uri
    plugins = {point.name for point in metadata.entry_points(group=_PLUGINS)}
    if scheme not in {*_SCHEMES, *plugins}:
        raise UserError(
            f"MLFLOW_TRACKING_URI must be a server (http://HOST:5000) or a database (sqlite:////PATH/mlflow.db, "
            f"postgresql://USER@HOST/NAME), but got {redact(uri)}. Without it, MLflow's store is a file in the home."
        )


def ask_store(timeout_s: float = TIMEOUT_S) -> Answer:
    """Check whether MLflow's server or database answers, or whether its file can be written. Databricks is not asked.

    Raises:
        UserError: As :func:`check_uri`.
    """
    check_uri()
    uri = tracking_uri()
    if is_server():
        return ask_mlflow(uri, timeout_s=timeout_s)
    file = database_file()
    if file is None:
        return ask_database(uri, timeout_s=timeout_s) if is_database() else Answer(is_up=True)
    obstacle = find_obstacle(file.parent)
    # A file that can only be read is still useful.
    return Answer(is_up=True, reason="" if obstacle is None else f"cannot write to {file.parent}: {obstacle}")


def require_answer(advice: str) -> None:
    """Check that MLflow answers and can be written, before work starts that would be useless without it.

    Args:
        advice: As for :func:`connect`.

    Raises:
        UserError: As :func:`check_uri`.
        MlflowFailedError: It does not.
    """
    answer = ask_store(_ANSWER_S)
    # Whether it accepts our credentials, only MLflow's own client knows: a plugin may send them.
    if answer.reason and not answer.is_refused:
        raise MlflowFailedError(answer.reason, advice)
    connect(advice=advice)


def make_client() -> MlflowClient:
    """Return a client of MLflow, which is kept from writing to the terminal.

    The first client of a new sqlite database creates its schema, which takes a few seconds.

    Raises:
        UserError: As :func:`check_uri`.
        OrchestratorError: MLflow does not answer; the message is only the reason.
    """
    # MLflow itself would try for minutes to reach what is not there, or does not reply.
    answer = ask_store(_ANSWER_S)
    if not answer.is_up:
        raise OrchestratorError(answer.reason)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=_NOISY)
    from mlflow import MlflowClient

    require_sound_database()
    file = database_file()
    if file is not None and file.parent == home() and file.is_file():
        follow_home(file)
    # Set again, because MLflow may have been imported before us, with its own level.
    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _make_database()
    return MlflowClient(tracking_uri())


def connect(wait_s: float | None = None, advice: str = ADVICE) -> MlflowClient:
    """Return a client of MLflow once it answers.

    Args:
        wait_s: How long to keep trying; None is 60 s for a database, whose schema may just be created, and 10 s for a
            server.
        advice: What the user can do without MLflow, for the message.

    Raises:
        MlflowFailedError: It does not answer.
    """
    # A new database may be locked by the process that creates its schema; a server answers at once or not at all.
    if wait_s is None:
        wait_s = SCHEMA_WAIT_S if is_database() else SERVER_WAIT_S
    deadline = time.monotonic() + wait_s
    while True:
        try:
            client = make_client()
            # Creating a client sends nothing: only a request shows whether MLflow answers.
            client.search_experiments(max_results=1)
            return client
        # Waiting does not help if a setting is wrong, or the file.
        except (UserError, BrokenDatabaseError):
            raise
        except Exception as error:
            _refuse_damaged(error)
            if time.monotonic() > deadline:
                raise MlflowFailedError(describe_error(error), advice) from error
            time.sleep(_POLL_S)


@contextmanager
def answering(advice: str = ADVICE, wait_s: float | None = None) -> Iterator[MlflowClient]:
    """Yield a client of MLflow, and raise :class:`MlflowFailedError` for anything that MLflow raises in the block.

    Args:
        advice, wait_s: As for :func:`connect`.
    """
    client = connect(wait_s, advice)
    try:
        yield client
    # Our own errors already say what to do; anything else comes from MLflow.
    except (UserError, OrchestratorError):
        raise
    except Exception as error:
        _refuse_damaged(error)
        raise MlflowFailedError(describe_error(error), advice) from error


def is_missing(error: Exception) -> bool:
    """Whether MLflow answered that the requested object does not exist, as opposed to not answering."""
    from mlflow.exceptions import MlflowException

    # A proxy that answers with an error page raises the same class, but with another code.
    return isinstance(error, MlflowException) and error.error_code in _MISSING


def all_pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield everything that a search of MLflow finds, requesting one page at a time.

    Args:
        search: Returns the page for a token; None is the first page.
    """
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        # MLflow returns at most 1,000 runs or 100 models at a time.
        token = page.token
        if not token:
            return


def require_sound_database() -> None:
    """Check the file of an sqlite database, if it exists.

    Raises:
        BrokenDatabaseError: It is not a database, or its tables cannot be listed.
    """
    file = database_file()
    if file is None or not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.execute("PRAGMA quick_check(1)")
    except sqlite3.OperationalError:
        # Locked by its writer, which is no damage; or something that is not a file.
        if not file.is_file():
            raise BrokenDatabaseError(file) from None
    except sqlite3.DatabaseError:
        raise BrokenDatabaseError(file) from None


def _refuse_damaged(error: Exception) -> None:
    """Raise for an error that says that a page of the database is damaged, which only a request finds."""
    file = database_file()
    if file is not None and any(sign in str(error) for sign in _DAMAGED):
        raise BrokenDatabaseError(file) from error


def is_server() -> bool:
    return tracking_uri().startswith(("http://", "https://"))


def is_database() -> bool:
    return urlsplit(tracking_uri()).scheme.split("+")[0] in _DATABASES


def database_file() -> Path | None:
    """Return the file of MLflow's database, or None if it is no file on this machine, so that others may share it."""
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _make_database() -> None:
    """Create the sqlite database under another name and move it into place when it is complete.

    A kill during MLflow's migrations leaves a database that nothing can repair.
    """
    from mlflow import MlflowClient

    file = database_file()
    # Other processes use the file as soon as it exists, so it must have its whole schema by then.
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    with FileLock(file.with_name(f"{file.name}.lock")):
        if not file.exists():
            # An existing draft was left by a kill during an earlier attempt.
            draft.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{draft}")
            # A link, not a rename: a rename would replace a database that someone has put there in the meantime.
            with suppress(FileExistsError):
                os.link(draft, file)
            draft.unlink()


def file_number(file: Path | None) -> tuple[int, int] | None:
    if file is None or not file.exists():
        return None
    status = file.stat()
    # The inode distinguishes a database from another one that has been put under the same name.
    return status.st_dev, status.st_ino
