"""Restore a sweep from its backup: its folder, in a home that lacks it, or only a journal that is lost or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import PLAN_FILE, sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import describe_error, redact
from orchestrator.sweep_folder.backup import Segment, find_backup_holder, held, list_segments
from orchestrator.sweep_folder.checkpoints import has_checkpoints
from orchestrator.sweep_folder.index import PlanError, load_plan
from orchestrator.sweep_folder.journal import (
    JOURNAL_FILE,
    check_journal,
    read_whole,
    replace_journal,
    replay,
)
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.state import SweepState
from orchestrator.uris import join_uri, require_safe_uri, split_uri
from training.counts import counted
from training.data.store.storage import Storage
from training.errors import ConfigError
from training.files import sync_folder, write_whole

_NUM_READERS = 16  # object storage is slow for each read, but serves many at a time


def restore_sweep(
    uri: str, sweep: str | None = None, *, steal_lease: bool = False, say: Callable[[str], None] = lambda text: None
) -> tuple[str, str]:
    """Restore a sweep from its backup into this home, so that it can be resumed.

    If the home has its folder, only a journal that is lost, damaged or behind the backup is restored.

    Args:
        uri: The folder or URI of all backups, or of one sweep's.
        sweep: An id or a name; None for the latest.
        steal_lease: Take it from a driver on another host that may still be alive.
        say: Called with a note for the user on anything that could not be restored.

    Returns:
        The sweep's id, and the URI that holds its backup.

    Raises:
        UserError: The backup does not exist, its driver is alive, the sweep is already in this home, or its checkpoints
            cannot be reached.
        OrchestratorError: The backup is damaged.
    """
    require_safe_uri("--from", uri)
    try:
        plan, parent = _find_plan(uri, sweep)
        storage = Storage(join_uri(parent, plan.id))
        holder = find_backup_holder(storage)
        if holder is not None and not steal_lease:
            raise UserError(held(plan.id, holder))
        content = _read_journal(storage)
    except ConfigError as error:
        raise UserError(redact(str(error))) from None
    except OSError as error:
        raise UserError(f"Cannot read the backup at --from={redact(uri)} ({describe_error(error)}).") from None
    if sweep_dir(plan.id).exists():
        _restore_journal(plan, content, say)
    else:
        _write(plan, content, say)
    return plan.id, parent


def _find_plan(uri: str, sweep: str | None) -> tuple[SweepPlan, str]:
    here = Storage(uri)
    if PLAN_FILE in here.sizes():
        parent, name = split_uri(uri)
        return _read_plan(here, name), parent
    named = [(name, Storage(join_uri(uri, name))) for name in here.folders() if sweep is None or name.startswith(sweep)]
    # The same place may hold other things, such as checkpoints.
    plans = [_read_plan(storage, name) for name, storage in named if PLAN_FILE in storage.sizes()]
    plans = [plan for plan in plans if sweep in (None, plan.id, plan.name)]
    if not plans:
        listed = ", ".join(here.folders()[:10]) or "none"
        raise UserError(f"No backup of {sweep or 'a sweep'} at --from={redact(uri)}. Found there: {listed}.")
    return max(plans, key=lambda plan: plan.created), uri


def _read_plan(storage: Storage, name: str) -> SweepPlan:
    try:
        plan = SweepPlan.from_json(storage.read(PLAN_FILE).decode())
    except (ValueError, FileNotFoundError) as error:
        raise OrchestratorError(
            f"The backup is damaged: cannot read {PLAN_FILE} in {redact(storage.uri)}: {error}"
        ) from None
    if plan.id != name:
        raise OrchestratorError(
            f"The backup in {redact(storage.uri)} has the plan of {plan.id!r}; its folder must have that name."
        )
    return plan


def _restore_journal(plan: SweepPlan, content: bytes, say: Callable[[str], None]) -> None:
    path = sweep_dir(plan.id) / JOURNAL_FILE
    holder = find_holder(path.parent)
    _, here = read_whole(path)
    # A journal that ends earlier, and has nothing that the backup lacks, has lost its end.
    is_behind = content.startswith(here) and len(content) > len(here)
    if holder is not None or (check_journal(path) is None and not is_behind):
        raise UserError(
            f"{plan.id} is already in this home, in {path.parent}. Continue it: `orchestrator resume {plan.id}`. If "
            f"the backup is newer, move that folder away first."
        )
    # What was written after the last copy is still good up to the first broken line.
    kept = replace_journal(path, here if here.startswith(content) else content)
    say(f"note: restored the journal of {plan.id}" + (f"; the former one is {kept}" if kept else ""))
    try:
        load_plan(plan.id)
    except PlanError:
        write_whole(path.with_name(PLAN_FILE), plan.to_json())


def _read_journal(storage: Storage) -> bytes:
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        return b"".join(readers.map(partial(_read_segment, storage), list_segments(storage)))


def _read_segment(storage: Storage, segment: Segment) -> bytes:
    content = storage.read(segment.name)
    if Segment.of(segment.number, content) != segment:
        raise OrchestratorError(
            f"The backup is damaged: {segment.name} in {redact(storage.uri)} does not match its checksum."
        )
    return content


def _write(plan: SweepPlan, content: bytes, say: Callable[[str], None]) -> None:
    # A kill leaves a folder with a leading dot: readers ignore it, and the next attempt replaces it.
    draft = sweeps_dir() / f".{plan.id}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write_whole(draft / JOURNAL_FILE, content)
    _report_missing_checkpoints(plan, replay(draft / JOURNAL_FILE), say)
    # The plan comes last: readers ignore a folder without one, or whose name starts with a dot.
    write_whole(draft / PLAN_FILE, plan.to_json())
    draft.rename(sweep_dir(plan.id))
    sync_folder(sweeps_dir())


def _report_missing_checkpoints(plan: SweepPlan, state: SweepState, say: Callable[[str], None]) -> None:
    begun = [record.trial for record in state.open_trials() if record.last_epoch]
    try:
        missing = [trial for trial in begun if not has_checkpoints(plan, trial)]
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot reach the checkpoints from this machine: {redact(plan.storage or '')} ({describe_error(error)}). "
            f"Put its credentials into the environment, then run the same command again."
        ) from None
    if missing:
        where = (
            f"{redact(plan.storage)} has no checkpoints of them"
            if plan.storage
            else "their checkpoints are on the other machine (it ran without --storage)"
        )
        say(f"note: {_list(missing)} of {plan.id} will start over: {where}.")


def _list(trials: list[int]) -> str:
    shown = ", ".join(map(str, trials[:10])) + (" ..." if len(trials) > 10 else "")
    return f"{counted(len(trials), 'trial')} ({shown})"
