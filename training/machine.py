"""Find out this machine's CPUs, memory and processes, on Linux and on macOS."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least one."""
    # Not os.cpu_count where it can be avoided: a container or taskset may allow fewer. macOS has no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process."""
    # getrusage is only a fallback: on Linux its figure starts with that of the parent process.
    with suppress(OSError, IndexError, ValueError):
        return int(_STATUS.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # macOS counts bytes, the other systems KiB


def total_memory_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limit_memory(num_bytes: int) -> None:
    """Make allocations beyond a size fail, so that a process that is far too large does not drain the machine."""
    # macOS may refuse the limit. The attempt is then stopped by the machine itself, later and less gently.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))


def is_running(process: psutil.Process) -> bool:
    """Return whether a process is alive and not a zombie."""
    try:
        # In a container, zombies may remain forever, because nothing reaps them.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process with this pid and start time (Unix time in s) is running on this host."""
    try:
        process = psutil.Process(pid)
        # Not exactly equal: the start time is derived from the clock of the host, which may be adjusted.
        return abs(process.create_time() - started) < 1.0 and is_running(process)
    except psutil.Error:
        return False
