"""Where everything lies: one home for sweeps, store and data. What can be made again lies in
:func:`training.cache.cache_dir`.

::

    <home>/sweeps/<id>/{plan.json, journal.jsonl, lease.json, spool/, checkpoints/, errors/}
    <home>/mlflow.db    <home>/artifacts/    <home>/data/<name>/

A folder under ``sweeps`` is a sweep, a single training or a promotion; all three have an id, a plan and a journal.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import sync_folder, write_whole
from orchestrator.errors import UserError
from search_spaces.section import did_you_mean

HOME_VARIABLE = "ORCHESTRATOR_HOME"
PLAN_FILE = "plan.json"
CHECKPOINTS_DIR = "checkpoints"
SPOOL_DIR = "spool"
ERRORS_DIR = "errors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID_SUFFIX = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class SweepEntry:
    """What the folder of a sweep, a training or a promotion says of itself."""

    id: str
    name: str
    kind: str
    created: float


def home() -> Path:
    """Return the folder under which everything lies: ``$ORCHESTRATOR_HOME``, else the current one."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.cwd()).expanduser().absolute()


def sweeps_dir() -> Path:
    """Return the folder of all sweeps."""
    return home() / "sweeps"


def sweep_dir(sweep_id: str) -> Path:
    """Return the folder of one sweep."""
    return sweeps_dir() / sweep_id


def trial_name(trial: int) -> str:
    """Return the name of a trial's folders and of its run in MLflow."""
    return f"t{trial:04d}"


def artifacts_dir() -> Path:
    """Return the folder of MLflow's artifacts."""
    return home() / "artifacts"


def data_dir(name: str) -> Path:
    """Return the folder of a prepared dataset."""
    return home() / "data" / name


def require_home() -> None:
    """Check that what lies under the home can be looked for; a home that is not there yet is empty.

    Raises:
        UserError: It is no folder.
    """
    if home().exists() and not home().is_dir():
        raise UserError(
            f"home must be a folder, but got home={home()}, which is a file. Set {HOME_VARIABLE} to a folder."
        )


def make_sweep_id(name: str) -> str:
    """Return a fresh id: the name and 8 random hex digits."""
    return f"{name}-{secrets.token_hex(4)}"


def check_name(name: str) -> str:
    """Return the name of a sweep if it may be one.

    Raises:
        UserError: It has characters that a path, a URL or ``SWEEP/TRIAL`` could not carry, or it looks like an id.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name must be 1 to 64 letters, digits, '.', '_' or '-' and start with a letter or digit, but got "
            f"name={name!r}."
        )
    if _ID_SUFFIX.search(name):
        raise UserError(
            f"name must not end like an id (- and 8 hex digits), but got name={name!r}. Choose another one."
        )
    return name


def clean_name(word: str) -> str:
    """Return the nearest name that :func:`check_name` accepts, for a sweep that is called after a file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", word).lstrip("._-")[:48] or "space"
    return f"{name}-space" if _ID_SUFFIX.search(name) else name


def require_free_name(name: str) -> str:
    """Return a name given by the user if no sweep has it yet.

    Raises:
        UserError: The name is taken, or is none.
    """
    check_name(name)
    taken = [entry.id for entry in list_sweeps() if entry.name == name]
    if taken:
        raise UserError(
            f"name must be free, but got name={name!r}, which {taken[0]} has. "
            f"Choose another one, leave --name out, or go on with it: orchestrator resume {taken[0]}"
        )
    return name


def create_sweep(sweep_id: str, plan_text: str) -> Path:
    """Make the folder of a new sweep and write its plan, once and for all.

    Raises:
        UserError: The home cannot be written.
    """
    folder = sweep_dir(sweep_id)
    try:
        folder.mkdir(parents=True)
        # A folder without a whole plan is no sweep to any reader.
        write_whole(folder / PLAN_FILE, plan_text)
        sync_folder(folder.parent)
    except FileExistsError:
        raise UserError(f"sweep must be new, but got sweep={sweep_id}, whose folder {folder} exists.") from None
    except OSError as error:
        raise UserError(
            f"home must be a folder that can be written, but got home={home()} ({error.strerror}). Set {HOME_VARIABLE} "
            f"to one that can."
        ) from None
    return folder


def read_plan(sweep_id: str) -> str:
    """Return the text of a sweep's plan.

    Raises:
        UserError: There is no such sweep.
    """
    try:
        return (sweep_dir(sweep_id) / PLAN_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_no_such_sweep(sweep_id, list_sweeps())) from None


def list_sweeps(kinds: Collection[str] | None = None) -> list[SweepEntry]:
    """List what lies under ``sweeps``, the latest first.

    Args:
        kinds: Only these of ``sweep``, ``train`` and ``promote``; None is all of them.

    Raises:
        UserError: The home is no folder.
    """
    entries = [entry for path in _plan_files() if (entry := _read_entry(path))]
    if kinds is not None:
        entries = [entry for entry in entries if entry.kind in kinds]
    return sorted(entries, key=lambda entry: (entry.created, entry.id), reverse=True)


def find_sweep(name: str | None = None, *, kinds: Collection[str] | None = None) -> str:
    """Return the id that an id, a name (its latest) or nothing (the latest of all) stands for.

    Args:
        name: An id, a name or None.
        kinds: As in :func:`list_sweeps`; an exact id is found whatever its kind.

    Raises:
        UserError: There is none; the message names the nearest and the command that lists them.
    """
    if name is not None and name in (path.parent.name for path in _plan_files()):
        return name
    entries = list_sweeps(kinds)
    for entry in entries:
        if name in (None, entry.name):
            return entry.id
    raise UserError(_no_such_sweep(name, entries))


def _plan_files() -> Iterator[Path]:
    require_home()
    # A folder in the making has a dot before its name.
    return sweeps_dir().glob(f"[!.]*/{PLAN_FILE}")


def _read_entry(path: Path) -> SweepEntry | None:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return SweepEntry(path.parent.name, str(plan["name"]), str(plan["kind"]), float(plan["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a plan of ours: it must not keep anyone from the others


def _no_such_sweep(name: str | None, entries: list[SweepEntry]) -> str:
    if not entries:
        return f"sweep must exist, but there is none under {sweeps_dir()}. Start one: orchestrator sweep digits"
    known = [known for entry in entries for known in (entry.id, entry.name)]
    hint = did_you_mean(name or "", known) or f"The latest is {entries[0].id}."
    return (
        f"sweep must exist under {sweeps_dir()}, but got sweep={name!r}. {hint} `orchestrator status --all` lists them."
    )
