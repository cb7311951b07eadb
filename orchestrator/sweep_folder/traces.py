"""Find what a sweep has left outside its journal, to notice a journal that has lost events."""

from __future__ import annotations

import re
from contextlib import suppress

from pyarrow import fs

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import ERRORS_DIR, SPOOL_DIR, locate, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.backup import list_segments
from orchestrator.sweep_folder.checkpoints import checkpoint_uri, trial_uri
from orchestrator.sweep_folder.journal import JOURNAL_FILE, JournalError, advise_restore
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.state import SweepState
from orchestrator.uris import join_uri
from training.counts import counted
from training.data.store.storage import Storage
from training.files import open_location

_TRIAL = re.compile(r"t(\d{4,})")
# A checkpoint is whole once this file exists, which is written after it.
_STATE = re.compile(r"last-(\d+)\.pt\.done")
# What an unreachable or misspelt place raises; it then tells nothing.
_UNREACHABLE = (OSError, ValueError, NotImplementedError)


def find_traces(plan: SweepPlan) -> list[str]:
    """Return what shows that a sweep has begun, as parts of a sentence: checkpoints, errors, pictures, a backup."""
    found: list[str] = []
    with suppress(*_UNREACHABLE):
        if num := len(_list_trials(plan)):
            found.append(f"checkpoints of {counted(num, 'trial')}")
    for name, what in ((ERRORS_DIR, "tracebacks"), (SPOOL_DIR, "pictures of trials")):
        if any((sweep_dir(plan.id) / name).glob("t[0-9]*")):
            found.append(what)
    if plan.backup is not None:
        with suppress(*_UNREACHABLE, OrchestratorError, UserError):
            if list_segments(Storage(join_uri(locate(plan.backup, plan.id), plan.id))):
                found.append("a backup")
    return found


def require_no_gap(plan: SweepPlan, state: SweepState, command: str) -> None:
    """Check that no checkpoint on this machine is ahead of the journal, whose last lines are then missing.

    A checkpoint is written before its epoch is in the journal, so after a kill it may be one epoch ahead.

    Args:
        plan: The sweep.
        state: Its state, replayed from its journal.
        command: What continues the sweep in spite of that.

    Raises:
        JournalError: One is further ahead, or belongs to a trial that the journal does not have.
    """
    # A storage that is away must not hold up a resume, and a driver that is running goes on while we look.
    if (plan.storage is not None and "://" in plan.storage) or find_holder(sweep_dir(plan.id)) is not None:
        return
    for trial, epoch in _last_epochs(plan).items():
        record = state.records.get(trial)
        known = 0 if record is None else record.last_epoch
        # A trial is in the journal before it is handed out.
        if (record is None and epoch) or (record is not None and not record.ended and epoch > known + 1):
            folder = sweep_dir(plan.id)
            raise JournalError(
                f"{folder / JOURNAL_FILE} has lost its last lines: trial {trial} has a checkpoint of epoch {epoch}, "
                f"but in the journal the trial ends with epoch {known}. {advise_restore(folder, state.backup)}. Or "
                f"continue without the figures of the epochs in between: `{command}`"
            )


def _list_trials(plan: SweepPlan) -> set[int]:
    system, path = open_location(checkpoint_uri(plan))
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {int(match[1]) for info in infos if (match := _TRIAL.fullmatch(info.base_name))}


def _last_epochs(plan: SweepPlan) -> dict[int, int]:
    """Return the epoch of each trial's last checkpoint; nothing if the storage cannot be read: a trial will say so."""
    with suppress(*_UNREACHABLE):
        return {trial: _last_epoch(plan, trial) for trial in sorted(_list_trials(plan))}
    return {}


def _last_epoch(plan: SweepPlan, trial: int) -> int:
    system, path = open_location(trial_uri(plan, trial))
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return max((int(match[1]) for info in infos if (match := _STATE.fullmatch(info.base_name))), default=0)
