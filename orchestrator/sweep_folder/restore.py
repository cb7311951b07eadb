"""The folder of a sweep, made anew in an empty home from its backup."""

from __future__ import annotations

import re
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
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.state import SweepState
from orchestrator.uris import join_uri, require_no_credentials, split_uri
from training.data.store.storage import Storage
from training.errors import ConfigError
from training.files import sync_folder, write_whole

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_NUM_READERS = 16


def restore_sweep(
    uri: str, sweep: str | None = None, *, steal_lease: bool = False, say: Callable[[str], None] = lambda text: None
) -> tuple[str, str]:
    """Make the folder of a backed-up sweep in this home, for `resume`.

    Args:
        uri: Under which backups lie, or that of one sweep.
        sweep: An id or a name; None is the latest of those under ``uri``.
        steal_lease: Take it from a driver on another host that may still live.
        say: Told what cannot be as it was.

    Returns:
        The sweep's id, and the URI under which its backup lies.

    Raises:
        UserError: There is no such backup, its driver lives, the sweep is in this home, or its checkpoints cannot be
            reached.
        OrchestratorError: The backup is not whole.
    """
    require_no_credentials("--from", uri)
    try:
        plan, parent = _find_plan(uri, sweep)
        storage = Storage(join_uri(parent, plan.id))
        holder = find_backup_holder(storage)
        if holder is not None and not steal_lease:
            raise UserError(held(plan.id, holder))
        _require_new(plan.id)
        content = _read_journal(storage)
    except ConfigError as error:
        raise UserError(redact(str(error))) from None
    except OSError as error:
        raise UserError(
            f"backup must be a storage that can be read, but got --from={redact(uri)} ({describe_error(error)})."
        ) from None
    _write(plan, content, say)
    return plan.id, parent


def _find_plan(uri: str, sweep: str | None) -> tuple[SweepPlan, str]:
    here = Storage(uri)
    if PLAN_FILE in here.sizes():
        parent, name = split_uri(uri)
        return _read_plan(here, name), parent
    named = [(name, Storage(join_uri(uri, name))) for name in here.folders() if sweep is None or name.startswith(sweep)]
    # Checkpoints, or whatever else lies there, may be beside the backups.
    plans = [_read_plan(storage, name) for name, storage in named if PLAN_FILE in storage.sizes()]
    plans = [plan for plan in plans if sweep in (None, plan.id, plan.name)]
    if not plans:
        listed = ", ".join(here.folders()[:10]) or "none"
        raise UserError(
            f"--from must be a backup's URI, but got --from={redact(uri)}, which has {listed} and not "
            f"{sweep or 'a sweep'}."
        )
    return max(plans, key=lambda plan: plan.created), uri


def _read_plan(storage: Storage, name: str) -> SweepPlan:
    try:
        plan = SweepPlan.from_json(storage.read(PLAN_FILE).decode())
    except (ValueError, FileNotFoundError) as error:
        raise OrchestratorError(
            f"{PLAN_FILE} of a backup must be whole, but that in {redact(storage.uri)} is not: {error}"
        ) from None
    # It becomes the name of a folder here.
    if plan.id != name or not _ID.fullmatch(plan.id):
        raise OrchestratorError(
            f"backup must lie under its sweep's id, but got {redact(storage.uri)} with the plan of {plan.id!r}."
        )
    return plan


def _require_new(sweep_id: str) -> None:
    if sweep_dir(sweep_id).exists():
        raise UserError(
            f"sweep must not be in this home yet, but got sweep={sweep_id}, whose folder is {sweep_dir(sweep_id)}. "
            f"Go on with that: orchestrator resume {sweep_id}. If the backup is ahead of it, move the folder away "
            f"first."
        )


def _read_journal(storage: Storage) -> bytes:
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        return b"".join(readers.map(partial(_read_segment, storage), list_segments(storage)))


def _read_segment(storage: Storage, segment: Segment) -> bytes:
    content = storage.read(segment.name)
    if Segment.of(segment.number, content) != segment:
        raise OrchestratorError(
            f"segment of a backup must hold what its name says, but {segment.name} in {redact(storage.uri)} does not."
        )
    return content


def _write(plan: SweepPlan, content: bytes, say: Callable[[str], None]) -> None:
    draft = sweeps_dir() / f".{plan.id}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write_whole(draft / JOURNAL_FILE, content)
    _tell_missing_checkpoints(plan, replay(draft / JOURNAL_FILE), say)
    # No reader takes a folder without a plan, nor one with a dot, for a sweep.
    write_whole(draft / PLAN_FILE, plan.to_json())
    draft.rename(sweep_dir(plan.id))
    sync_folder(sweeps_dir())


def _tell_missing_checkpoints(plan: SweepPlan, state: SweepState, say: Callable[[str], None]) -> None:
    begun = [record.trial for record in state.open_trials() if record.last_epoch]
    try:
        missing = [trial for trial in begun if not has_checkpoints(plan, trial)]
    except (OSError, ValueError) as error:
        raise UserError(
            f"checkpoints must lie in a storage that this machine reaches, but got "
            f"storage={redact(plan.storage or '')} "
            f"({describe_error(error)}). Make it reachable from here, with its credentials in the environment, then "
            f"the same again."
        ) from None
    if missing:
        where = (
            f"{redact(plan.storage)} has no checkpoint of theirs"
            if plan.storage
            else "their checkpoints stayed on the other machine (no --storage)"
        )
        say(f"note: {_list(missing)} of {plan.id} began, and begin anew: {where}.")


def _list(trials: list[int]) -> str:
    shown = ", ".join(map(str, trials[:10])) + (" ..." if len(trials) > 10 else "")
    return f"{len(trials)} trial{'s' if len(trials) > 1 else ''} ({shown})"
