"""Name the places under the home: sweeps, MLflow's store and prepared data.

::

    <home>/sweeps/<id>/{plan.json, journal.jsonl, lease.json, spool/, checkpoints/, errors/}
    <home>/mlflow.db    <home>/artifacts/    <home>/data/<name>/

A folder under ``sweeps`` is a sweep, a single training or a promotion; each has an id, a plan and a journal.
What can be computed again is kept elsewhere, in :func:`training.cache.cache_dir`.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from pathlib import Path

from orchestrator.errors import UserError
from training.path_names import is_path_name, require_path_name

HOME_VARIABLE = "ORCHESTRATOR_HOME"
PLAN_FILE = "plan.json"
CHECKPOINTS_DIR = "checkpoints"
SPOOL_DIR = "spool"
ERRORS_DIR = "errors"
_MAX_NAME = 64
# A name that looks like an id could hide the sweep that has this id.
_ID_SUFFIX = re.compile(r"(-[0-9a-f]{8})+$")


def home() -> Path:
    """Return the folder that holds everything: ``$ORCHESTRATOR_HOME``, by default the current folder."""
    # Absolute, because the processes of Ray run in folders of their own.
    return Path(os.environ.get(HOME_VARIABLE) or Path.cwd()).expanduser().absolute()


def sweeps_dir() -> Path:
    """Return the folder of all sweeps."""
    return home() / "sweeps"


def sweep_dir(sweep_id: str) -> Path:
    """Return the folder of one sweep.

    Raises:
        UserError: The id leads elsewhere: it is not a name.
    """
    return sweeps_dir() / _checked(sweep_id, "The id of a sweep")


def trial_name(trial: int) -> str:
    """Return the name of a trial's folders and of its run in MLflow."""
    return f"t{trial:04d}"


def locate(place: str, sweep_id: str) -> str:
    """Return where a folder with something of a sweep is now, in a home that was moved or copied with it.

    Plans and journals have the absolute place from the time when they were written.

    Args:
        place: A folder or a URI; URIs do not move.
        sweep_id: Name of the sweep's own folder in it.
    """
    path = Path(place)
    if "://" in place or path.is_relative_to(home()):
        return place
    for number in range(1, len(path.parts)):
        here = home().joinpath(*path.parts[number:])
        # Every sweep has a folder there, wherever its checkpoints are.
        if (here / sweep_id).is_dir() and not here.is_relative_to(sweeps_dir()):
            return str(here)
    return place


def artifacts_dir() -> Path:
    """Return the folder of MLflow's artifacts."""
    return home() / "artifacts"


def datasets_dir() -> Path:
    """Return the folder of all prepared datasets, and of the pointers to those elsewhere."""
    return home() / "data"


def data_dir(name: str) -> Path:
    """Return the folder of a prepared dataset.

    Raises:
        UserError: The name leads elsewhere.
    """
    return datasets_dir() / _checked(name, "The name of a dataset")


def require_home() -> None:
    """Check that the home is a folder, or does not exist yet, which counts as empty.

    Raises:
        UserError: It is a file.
    """
    if home().exists() and not home().is_dir():
        raise UserError(f"home must be a folder, but got {home()}, which is a file. Set {HOME_VARIABLE} to a folder.")


def make_sweep_id(name: str) -> str:
    """Return a new id: the name and 8 random hex digits."""
    return f"{name}-{secrets.token_hex(4)}"


def check_name(name: str) -> str:
    """Return what ``--name`` gives if it can be a name.

    Raises:
        UserError: It has characters that do not fit into a path, a URL or ``SWEEP/TRIAL``, or it looks like an id.
    """
    if len(name) > _MAX_NAME or not is_path_name(name):
        raise UserError(
            f"--name must be 1 to {_MAX_NAME} letters, digits, '.', '_' or '-' and start with a letter or digit, but "
            f"got --name={shlex.quote(name)}. For example: --name={clean_name(name)}"
        )
    if _ID_SUFFIX.search(name):
        raise UserError(
            f"--name must not end like the id of a sweep (a - and 8 hex digits), but got --name={name}. For example: "
            f"--name={_ID_SUFFIX.sub('', name)}"
        )
    return name


def clean_name(word: str) -> str:
    """Return the nearest name that :func:`check_name` accepts, for a sweep named after a file."""
    # Short enough to take -space, -train or -promote as well.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", word).lstrip("._-")[:48] or "space"
    return f"{name}-space" if _ID_SUFFIX.search(name) else name


def _checked(name: str, what: str) -> str:
    try:
        return require_path_name(name, what)
    except ValueError as error:
        raise UserError(f"{error}.") from None
