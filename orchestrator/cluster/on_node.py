"""Looks at one node of a cluster from there: which drivers run, which nodes have joined; and stops everything on it.

``cluster up`` and ``cluster down`` run it on the nodes: ``python -m orchestrator.cluster.on_node COMMAND``. To stop a
node, its text is sent over SSH, because the node may have another version of this package or only half of it. That is
why this module imports nothing of the project.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

_DRIVING = ("sweep", "resume", "extend", "train", "ablate", "promote")
_RAY = (
    "raylet",
    "gcs_server",
    "ray::",
    "default_worker.py",
    "setup_worker.py",
    "log_monitor.py",
    "monitor.py",
    "dashboard.py",
)
"""Words in the command lines of Ray's own processes."""
_HEAD = "node:__internal_head__"
"""The resource that only the head has."""
# A driver waits up to 15 s for MLflow, and as long for Ray, before it ends.
_DRIVER_S = 60.0
_KILLED_S = 5.0
_POLL_S = 1.0


def find_drivers(processes: Iterable[psutil.Process]) -> dict[psutil.Process, str]:
    """Return the processes that run a verb which trains, with that verb and its arguments."""
    found = {}
    for process in processes:
        words = _words(process)
        for index, word in enumerate(words[:-1]):
            if os.path.basename(word) == "orchestrator" and words[index + 1] in _DRIVING:
                found[process] = " ".join(words[index + 1 :])
    return found


def list_left(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return Ray's processes and the drivers; other programs of the user's are left alone."""
    drivers = find_drivers(processes)
    return [process for process in processes if process in drivers or any(map(_is_ray, _words(process)[:3]))]


def say_running() -> int:
    """Print the drivers that run here, one a line."""
    for process, verb in find_drivers(_others()).items():
        print(f"{verb} (process {process.pid} on {socket.gethostname()})")
    return 0


def stop(cluster: str | None = None) -> int:
    """End drivers tidily, stop Ray, kill what is left of both, and say what could not be stopped.

    Args:
        cluster: The cluster's name, under which this machine, if it is the head, notes where Ray runs.
    """
    drivers = list(find_drivers(_others()))
    for process in drivers:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(drivers, timeout=_DRIVER_S)
    venv = os.path.dirname(os.path.dirname(sys.executable))
    number = len(list_left(_others()))
    ray = [os.path.join(venv, "bin", "ray"), "stop", "--log-color=false"]
    with suppress(OSError):
        subprocess.run(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    for process in (left := list_left(_others())):
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_KILLED_S)
    if cluster:
        with suppress(OSError):
            os.unlink(state_file(cluster))
    still = list_left(_others())
    for process in still:
        print(f"cannot stop process {process.pid}: {' '.join(_words(process))[:100]}")
    print(f"stopped {_count(len(drivers), 'sweep')} and {_count(number - len(still), 'process')} of Ray", flush=True)
    return 1 if still else 0


def state_file(cluster: str) -> str:
    """Return the file in which Ray notes which machines of a cluster run."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return os.path.join(folder, "ray", f"cluster-{cluster}.state")


def wait(limit_s: float, number: int, names: Sequence[str] = ()) -> int:
    """Wait until so many workers have joined the cluster whose head this is; say which come, and which do not.

    Args:
        limit_s: How long to wait.
        number: How many workers are expected.
        names: Their names or addresses, if they are known.

    Returns:
        0, or 1 if none of them has joined within the limit.
    """
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    deadline, seen = time.monotonic() + limit_s, set[str]()
    while True:
        workers = [node for node in ray.nodes() if node["Alive"] and _HEAD not in node["Resources"]]  # type: ignore[no-untyped-call]
        for node in workers:
            if node["NodeID"] not in seen:
                seen.add(node["NodeID"])
                where = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
                print(f"{where} has joined: {len(workers)} of {_count(number, 'worker')}", flush=True)
        if len(workers) >= number or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    known = {node[key] for node in workers for key in ("NodeManagerAddress", "NodeManagerHostname")}
    missing = [name for name in names if not {name, _address(name)} & known]
    if len(workers) < number:
        print(f"{', '.join(missing) or number - len(workers)} did not join within {limit_s / 60:.0f} min", flush=True)
    return 1 if number and not workers else 0


def _others() -> list[psutil.Process]:
    """Return this user's processes, without this one and those it was started by."""
    ours = psutil.Process()
    related = {ours.pid, *(parent.pid for parent in ours.parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in related and process.uids().real == os.getuid():
                found.append(process)
    return found


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.cmdline()
    return []


def _is_ray(word: str) -> bool:
    return word.startswith("ray::") or os.path.basename(word) in _RAY


def _address(name: str) -> str:
    with suppress(OSError):
        return socket.gethostbyname(name)
    return name


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ss") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def main(words: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    command, *rest = words
    if command == "running":
        return say_running()
    return stop(*rest) if command == "stop" else wait(float(rest[0]), int(rest[1]), rest[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
