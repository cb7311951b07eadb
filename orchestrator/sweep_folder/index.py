"""List, find and create the folders of sweeps, trainings and promotions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import HOME_VARIABLE, PLAN_FILE, check_name, home, require_home, sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.lease import find_holder
from training.config.spelling import did_you_mean
from training.files import sync_folder, write_whole


@dataclass(frozen=True)
class SweepEntry:
    """A summary of the plan of a sweep, a training or a promotion."""

    id: str
    name: str
    kind: str
    created: float


def create_sweep(sweep_id: str, plan_text: str) -> Path:
    """Create the folder of a new sweep and write its plan, which never changes afterwards.

    Raises:
        UserError: The sweep exists, or the home is not writable.
    """
    folder = sweep_dir(sweep_id)
    try:
        folder.mkdir(parents=True)
        # Readers ignore a folder without a complete plan, so a kill up to here leaves no sweep.
        write_whole(folder / PLAN_FILE, plan_text)
        sync_folder(folder.parent)
    except FileExistsError:
        raise UserError(f"Sweep {sweep_id} already exists in {folder}.") from None
    except OSError as error:
        raise UserError(
            f"Cannot write to the home, {home()} ({error.strerror}). Set {HOME_VARIABLE} to a folder that you can "
            f"write to."
        ) from None
    return folder


def read_plan(sweep_id: str) -> str:
    """Return the text of a sweep's plan.

    Raises:
        UserError: The sweep does not exist.
    """
    try:
        return (sweep_dir(sweep_id) / PLAN_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_no_such_sweep(sweep_id, list_sweeps())) from None


def load_plan(sweep_id: str) -> SweepPlan:
    """Return the plan of a sweep, a training or a promotion.

    Raises:
        UserError: The sweep does not exist.
        OrchestratorError: Its plan cannot be read.
    """
    text = read_plan(sweep_id)
    try:
        return SweepPlan.from_json(text)
    except ValueError as error:
        raise OrchestratorError(
            f"Cannot read the plan of {sweep_id}, {sweep_dir(sweep_id) / PLAN_FILE}: {error}"
        ) from None


def list_sweeps(kinds: Collection[str] | None = None) -> list[SweepEntry]:
    """Return all sweeps, latest first.

    Args:
        kinds: Only these kinds (``sweep``, ``train``, ``promote``, ``ablate``); None for all.

    Raises:
        UserError: The home is not a folder.
    """
    entries = [entry for path in _plan_files() if (entry := _read_entry(path))]
    if kinds is not None:
        entries = [entry for entry in entries if entry.kind in kinds]
    return sorted(entries, key=lambda entry: (entry.created, entry.id), reverse=True)


def find_sweep(name: str | None = None, *, kinds: Collection[str] | None = None) -> str:
    """Return the id of the sweep with this id, the latest one with this name, or the latest of all.

    Args:
        name: An id, a name or None.
        kinds: As in :func:`list_sweeps`; an exact id is found whatever its kind.

    Raises:
        UserError: No sweep matches.
    """
    # An exact id is found even if its plan is broken, so that reading the plan can say what is wrong.
    if name is not None and name in (path.parent.name for path in _plan_files()):
        return name
    entries = list_sweeps(kinds)
    for entry in entries:
        if name in (None, entry.name):
            return entry.id
    raise UserError(_no_such_sweep(name, entries))


def require_free_name(name: str) -> str:
    """Return the name that the user chose, if it is valid and no sweep has it yet.

    Raises:
        UserError: It is invalid or taken.
    """
    check_name(name)
    taken = [entry.id for entry in list_sweeps() if entry.name == name]
    if taken:
        is_running = find_holder(sweep_dir(taken[0])) is not None
        verb = "status" if is_running else "resume"
        raise UserError(
            f"{taken[0]} already has the name {name!r}. Choose another name, leave out --name, or "
            f"{'watch' if is_running else 'continue'} that one: orchestrator {verb} {taken[0]}"
        )
    return name


def _plan_files() -> Iterator[Path]:
    require_home()
    # A folder that is still being written has a name that starts with a dot.
    return sweeps_dir().glob(f"[!.]*/{PLAN_FILE}")


def _read_entry(path: Path) -> SweepEntry | None:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return SweepEntry(path.parent.name, str(plan["name"]), str(plan["kind"]), float(plan["created"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # one broken plan must not hide the other sweeps


def _no_such_sweep(name: str | None, entries: list[SweepEntry]) -> str:
    if not entries:
        return f"No sweeps in {sweeps_dir()}. Start one: `orchestrator sweep digits`"
    known = [known for entry in entries for known in (entry.id, entry.name)]
    hint = did_you_mean(name or "", known) or f"The latest is {entries[0].id}."
    return f"No sweep {name!r} in {sweeps_dir()}. {hint} List them: `orchestrator status --all`"
