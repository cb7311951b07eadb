"""Find out this machine's CPUs, memory and processes, on Linux and on macOS."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_STATUS = Path("/proc/self/status")
_CPUS = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


def name_device() -> str:
    """Return the model of what this process trains on: of its GPU (or part of one) as torch names it, or of the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return name_cpu()


def name_cpu() -> str:
    """Return the model of the CPU."""
    with suppress(OSError):
        for line in _CPUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def list_gpu_names() -> list[str]:
    """Return the models of this machine's NVIDIA GPUs, by their driver: torch would take seconds."""
    names = []
    for path in sorted(_GPUS.glob("*/information")):
        with suppress(OSError):
            lines = path.read_text(encoding="utf-8").splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


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


def this_machine() -> str:
    """Return what tells the processes of this machine and container from all others; empty where there is no /proc.

    It consists of the id of the boot and the number of the PID namespace: containers often share the name of a host,
    and the same pid is another process in each.
    """
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
        # With the /proc of another namespace, nobody here can tell whether our pid is alive.
        is_seen = os.readlink("/proc/self") == str(os.getpid())
    except (OSError, UnicodeDecodeError):
        return ""
    return f"{boot_id}:{namespace}" if is_seen else f"{boot_id}:{namespace}:{os.getpid()}"


def identify_process() -> dict[str, Any]:
    """Return what identifies this process among those of all machines, as plain JSON; see :func:`is_dead`."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_started": psutil.Process().create_time(),
        "machine": this_machine(),
        "ticks": _read_start(os.getpid()) or 0,
    }


def is_here(host: str, machine: str = "") -> bool:
    """Return whether processes of a host and a machine (:func:`this_machine`, if it is known) can be seen from here."""
    return machine == this_machine() if machine else host == socket.gethostname()


def is_alive(pid: int, started: float, ticks: int = 0) -> bool:
    """Return whether a process of this machine is running.

    Args:
        pid: Its id.
        started: When it started, in Unix time in s. A step of the clock moves it.
        ticks: When it started, in clock ticks since the boot, which no clock moves; 0 if that is not known.
    """
    if ticks:
        return _read_start(pid) == ticks
    try:
        process = psutil.Process(pid)
        # Not exactly equal: the start time is derived from the clock of the host, which may be adjusted.
        return abs(process.create_time() - started) < 1.0 and is_running(process)
    except psutil.Error:
        return False


def is_dead(process: Mapping[str, Any]) -> bool:
    """Return whether a process that :func:`identify_process` identified has ended, as far as can be seen from here.

    Raises:
        KeyError, TypeError: The mapping identifies no process.
    """
    if not is_here(process["host"], process["machine"]):
        return False
    return not is_alive(process["pid"], process["pid_started"], process["ticks"])


def _read_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it has ended or there is no /proc."""
    try:
        # The name of the program is in parentheses and may contain some.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
