"""Finds and ends the processes that work for a sweep's driver or have outlived it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from training.machine import is_dead, is_running

SWEEP_VARIABLE = "ORCHESTRATOR_SWEEP"
"""Set in the environment of every process that works for a driver, to the sweep's folder."""
DRIVER_VARIABLE = "ORCHESTRATOR_DRIVER"
"""Set as well, to what :func:`training.machine.identify_process` says of the driver, as JSON."""
_KILL_WAIT_S = 10.0


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes on this host that work or worked for a driver of the sweep in this folder.

    This process, its parents and its children are left out.
    """
    ours = psutil.Process()
    return [process for process in psutil.process_iter() if _works_for(process, folder) and not _related(process, ours)]


def end_orphans(folder: Path) -> int:
    """Kill the processes that a dead driver of the sweep in this folder left on this host; wait until they have ended.

    Call it while holding the lease. Processes of a driver that is alive, or that cannot be seen from here, are left
    alone: the lease may have been taken from it by force, and it ends them itself.

    Returns:
        The number of orphans.
    """
    orphans = [process for process in find_processes(folder) if _is_orphan(process)]
    _kill(orphans)
    return len(orphans)


def kill_own(folder: Path) -> bool:
    """Kill the processes on this host that work for this driver of the sweep in this folder; wait until they end.

    They are found by their environment, not by their parent: if a signal reaches the whole process group, the raylet
    may end first, and what it started then belongs to nobody.

    Returns:
        Whether there were any.
    """
    own = [process for process in psutil.process_iter() if _works_for(process, folder) and _is_own(process)]
    _kill(own)
    return bool(own)


def _kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, and wait until they have ended; they need not be children of this one."""
    for process in processes:
        with suppress(psutil.Error):  # it has ended by itself
            process.kill()
    deadline = time.monotonic() + _KILL_WAIT_S
    while any(is_running(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _works_for(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(SWEEP_VARIABLE) == str(folder) and is_running(process)
    except psutil.Error:
        return False  # it belongs to another user, or has ended


def _is_orphan(process: psutil.Process) -> bool:
    try:
        return is_dead(json.loads(process.environ()[DRIVER_VARIABLE]))
    except psutil.Error:
        return False
    except (KeyError, TypeError, ValueError):  # an earlier version did not say whose it is
        return True


def _is_own(process: psutil.Process) -> bool:
    try:
        return process.environ()[DRIVER_VARIABLE] == os.environ.get(DRIVER_VARIABLE) and process.pid != os.getpid()
    except (psutil.Error, KeyError):
        return False


def _related(process: psutil.Process, ours: psutil.Process) -> bool:
    try:
        return process.pid == ours.pid or process in ours.parents() or ours in process.parents()
    except psutil.Error:
        return False
