"""List, find and create the folders of sweeps, trainings and promotions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import HOME_VARIABLE, PLAN_FILE, check_name, home, require_home, sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import MAX_TIME_S, SweepPlan
from orchestrator.sweep_folder.events import SweepPlanned
from orchestrator.sweep_folder.journal import JOURNAL_FILE, read_whole
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.plan_check import read_recorded
from search_spaces.reader import YAML_SUFFIXES
from search_spaces.schema import shipped_spaces
from training.config.spelling import did_you_mean, nearest_word
from training.files import sync_folder, write_whole

KIND_NOUNS = {
    "sweep": "a sweep",
    "train": "a training",
    "ablate": "an ablation",
    "promote": "a promotion",
    "race": "the race of a promotion",
}

_ID = re.compile(r"[A-Za-z0-9].*-[0-9a-f]{8}")
_SUFFIX_LENGTH = len("-01234567")


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
        # Fails if the folder exists, so that of two processes with one id only one goes on.
        folder.mkdir(parents=True)
        # Readers ignore a folder without a complete plan, so a kill up to here leaves no sweep.
        write_whole(folder / PLAN_FILE, plan_text)
        # A new folder survives a power cut only once the folder that lists it is flushed.
        sync_folder(folder.parent)
    except FileExistsError:
        raise UserError(f"Sweep {sweep_id} already exists in {folder}.") from None
    except OSError as error:
        raise UserError(
            f"Cannot write to the home, {home()} ({error.strerror}). Set {HOME_VARIABLE} to a folder that you can "
            f"write to."
        ) from None
    return folder


class PlanError(OrchestratorError):
    """The plan of a sweep is missing or damaged."""


def load_plan(sweep_id: str) -> SweepPlan:
    """Return the plan of a sweep, a training or a promotion.

    Raises:
        UserError: The sweep does not exist.
        PlanError: Its plan is missing or damaged.
    """
    path = sweep_dir(sweep_id) / PLAN_FILE
    try:
        plan = SweepPlan.from_json(path.read_bytes())
        if plan.id != sweep_id:
            raise ValueError(f"it is the plan of {plan.id}, not of {sweep_id}")
    except (OSError, ValueError) as error:
        if not path.exists() and not _is_sweep(path.parent):
            raise UserError(_no_such_sweep(sweep_id, list_sweeps())) from None
        problem = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise PlanError(f"Cannot read the plan of {sweep_id}, {path}: {problem}. {_advise(sweep_id)}") from None
    return plan


def repair_plan(sweep_id: str) -> Path | None:
    """Write the plan of a sweep again as its journal recorded it, if the file is missing or damaged.

    Returns:
        The file, if it was written.

    Raises:
        UserError: The sweep does not exist.
        PlanError: The journal has not recorded it either, or the file cannot be written.
    """
    try:
        load_plan(sweep_id)
    except PlanError:
        recorded = _find_recorded(sweep_id)
        if recorded is None:
            raise
        path = sweep_dir(sweep_id) / PLAN_FILE
        try:
            write_whole(path, recorded.to_json())
        except OSError as error:
            raise PlanError(f"Cannot write {path} again ({error.strerror}). Move what is there away.") from None
        return path
    return None


def _find_recorded(sweep_id: str) -> SweepPlan | None:
    events, _ = read_whole(sweep_dir(sweep_id) / JOURNAL_FILE)
    plain = next((event.plan for event in events if isinstance(event, SweepPlanned)), None)
    return None if plain is None else read_recorded(plain)


def _advise(sweep_id: str) -> str:
    if _find_recorded(sweep_id) is not None:
        return f"The journal has it: `orchestrator resume {sweep_id}` writes it again and continues."
    return "Restore the file from a copy, or from MLflow, where plan.json is an artifact of the sweep's own run."


def list_sweeps(kinds: Collection[str] | None = None) -> list[SweepEntry]:
    """Return all sweeps, latest first.

    Args:
        kinds: Only these kinds (``sweep``, ``train``, ``promote``, ``ablate``, ``race``); None for all.

    Raises:
        UserError: The home is not a folder.
    """
    entries = [entry for folder in _sweep_folders() if (entry := _read_entry(folder / PLAN_FILE))]
    if kinds is not None:
        entries = [entry for entry in entries if entry.kind in kinds]
    return sorted(entries, key=lambda entry: (entry.created, entry.id), reverse=True)


def list_broken() -> list[SweepEntry]:
    """Return the sweeps whose plan is missing or damaged, latest first; their kind is unknown.

    Only folders that are named like a sweep count, because others may keep their own files here.
    """
    known = {entry.id for entry in list_sweeps()}
    broken = [folder for folder in _sweep_folders() if folder.name not in known]
    entries = [SweepEntry(folder.name, folder.name[:-_SUFFIX_LENGTH], "", folder.stat().st_mtime) for folder in broken]
    return sorted(entries, key=lambda entry: (entry.created, entry.id), reverse=True)


def find_sweep(name: str | None = None, *, kinds: Collection[str] | None = None) -> str:
    """Return the id of the sweep with this id, the latest one with this name, or the latest of all.

    Args:
        name: An id, a name or None.
        kinds: As in :func:`list_sweeps`; one that is named is found whatever its kind.

    Raises:
        UserError: No sweep matches.
    """
    # An exact id is found even if its plan is broken, so that reading the plan can say what is wrong.
    if name is not None and name in (folder.name for folder in _sweep_folders()):
        return name
    entries = list_sweeps()
    fitting = [entry for entry in entries if kinds is None or entry.kind in kinds]
    # A name that only others have is found too: the verb then says why it cannot use them.
    others = [] if name is None else entries
    for entry in [*fitting, *list_broken(), *others]:
        if name in (None, entry.name):
            return entry.id
    if name is None and entries:
        nouns = sorted({KIND_NOUNS.get(entry.kind, entry.kind) for entry in entries})
        raise UserError(
            f"No {' and no '.join(sorted(kinds or ()))} in {sweeps_dir()}, only {', '.join(nouns)}. Name one, or "
            f"start a sweep: `orchestrator sweep digits`"
        )
    raise UserError(_no_such_sweep(name, entries))


def find_entry(word: str) -> SweepEntry | None:
    """Return the sweep with this id, or the latest with this name, if any; for words meant as something else."""
    return next((entry for entry in list_sweeps() if word in (entry.id, entry.name)), None)


def find_similar(word: str) -> str | None:
    """Return the id or name of a sweep of this home that a misspelt word may mean, or None."""
    return nearest_word(word, [known for entry in list_sweeps() for known in (entry.id, entry.name)])


def require_search(plan: SweepPlan) -> None:
    """Refuse to extend what searches nothing.

    Raises:
        UserError: It is not a sweep; the message says what does the same for it.
    """
    instead = {
        "train": f"Train it again with other settings: orchestrator train --from {plan.id}/0 --set KEY=VALUE",
        "ablate": "Start one with more seeds: orchestrator ablate SPACE --seeds K",
        "race": f"Continue the promotion that it belongs to: orchestrator resume {plan.id}",
        "promote": f"Promote again with more seeds: orchestrator promote {plan.parent} --seeds K",
    }
    if plan.kind in instead:
        raise UserError(f"{plan.id} is {KIND_NOUNS[plan.kind]}, and only a sweep can be extended. {instead[plan.kind]}")


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


def _sweep_folders() -> Iterator[Path]:
    require_home()
    # A folder that is still being written has a name that starts with a dot.
    return (path for path in sweeps_dir().glob("[!.]*") if (path / PLAN_FILE).is_file() or _is_sweep(path))


def _is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep, whatever has become of its plan."""
    return bool(_ID.fullmatch(folder.name)) and any((folder / name).exists() for name in (PLAN_FILE, JOURNAL_FILE))


def _read_entry(path: Path) -> SweepEntry | None:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        entry = SweepEntry(path.parent.name, str(plan["name"]), str(plan["kind"]), float(plan["created"]))
        return entry if 0 <= entry.created < MAX_TIME_S else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None  # one broken plan must not hide the other sweeps


def _no_such_sweep(name: str | None, entries: list[SweepEntry]) -> str:
    if name is not None and (instead := _recognise(name, entries)) is not None:
        return instead
    if not entries:
        return f"No sweeps in {sweeps_dir()}. Start one: `orchestrator sweep digits`"
    known = [known for entry in entries for known in (entry.id, entry.name)]
    hint = did_you_mean(name or "", known) or f"The latest is {entries[0].id}."
    return f"No sweep {name!r} in {sweeps_dir()}. {hint} List them: `orchestrator status --all`"


def _recognise(word: str, entries: list[SweepEntry]) -> str | None:
    """Return what a word is that does not name a sweep, if it is something else that can be named."""
    head, slash, number = word.rpartition("/")
    if slash and number.isdecimal() and any(head in (entry.id, entry.name) for entry in entries):
        return f"{word} is a trial. Name its sweep: {head}"
    if word.endswith(".zip"):
        return f"{word} is a file, not a sweep of this home. Look into a bundle: orchestrator browse {quote(word)}"
    if word in shipped_spaces() or word.endswith(YAML_SUFFIXES):
        return (
            f"{word} is a search space, and {sweeps_dir()} has no sweep of that name. Start one: orchestrator sweep "
            f"{quote(word)}"
        )
    return None
