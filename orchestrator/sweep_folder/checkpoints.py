"""Locate, measure and delete the checkpoints of a sweep's trials."""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs

from orchestrator.home import CHECKPOINTS_DIR, locate, sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.uris import join_uri
from training.files import open_location


def checkpoint_uri(plan: SweepPlan) -> str:
    """Return the folder or URI of all checkpoints of a sweep."""
    if plan.storage is None:
        return str(sweep_dir(plan.id) / CHECKPOINTS_DIR)
    return join_uri(locate(plan.storage, plan.id), plan.id)


def find_storage(plan: SweepPlan) -> str | None:
    """Return the folder or URI where a sweep keeps its checkpoints now; None if it is the sweep's own, or gone.

    A folder that is gone was in a former home, and must not be made again there.
    """
    found = None if plan.storage is None else locate(plan.storage, plan.id)
    return found if found is None or "://" in found or Path(found).is_dir() else None


def trial_uri(plan: SweepPlan, trial: int) -> str:
    """Return the folder or URI of one trial's checkpoints."""
    return join_uri(checkpoint_uri(plan), trial_name(trial))


def has_checkpoints(plan: SweepPlan, trial: int) -> bool:
    """Return whether a trial has any checkpoint.

    Raises:
        OSError, ValueError: The storage cannot be reached, or its URI is not valid.
    """
    system, path = _locate(plan, trial)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def measure_checkpoints(plan: SweepPlan, trial: int) -> int:
    """Return the size in bytes of a trial's checkpoints.

    Raises:
        OSError: The storage cannot be reached.
    """
    system, path = _locate(plan, trial)
    files = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return sum(info.size or 0 for info in files)


def delete_checkpoints(plan: SweepPlan, trial: int) -> None:
    """Delete all checkpoints of a trial.

    Raises:
        OSError: The storage cannot delete them.
    """
    if has_checkpoints(plan, trial):
        system, path = _locate(plan, trial)
        system.delete_dir(path)


def delete_last_state(plan: SweepPlan, trial: int) -> None:
    """Delete the states from which a trial would resume, and keep its best weights.

    Raises:
        OSError: The storage cannot delete them.
    """
    if has_checkpoints(plan, trial):
        # This imports torch, which takes seconds, so do it only if there is something to delete.
        from training.loop.checkpoint import CheckpointStore

        CheckpointStore(trial_uri(plan, trial)).drop("last")


def _locate(plan: SweepPlan, trial: int) -> tuple[fs.FileSystem, str]:
    return open_location(trial_uri(plan, trial))
