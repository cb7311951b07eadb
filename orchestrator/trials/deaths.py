"""Finds out why a process died: out of memory if Ray's monitor or the kernel's control group says so, or lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.sweep_folder.records import Cause

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"\bip: (\S+)")
_CGROUPS = Path("/sys/fs/cgroup")
# Listing the nodes is a request to Ray's head, so not at every step.
_LOOK_S = 10.0
# Tune's loop stands still until the node answers.
_ASK_S = 5.0


def describe_death(error: BaseException | None) -> tuple[str, Cause]:
    """Return the line that matters in Ray's error for a dead process, and OOM if its memory monitor killed it.

    The classes of ``ray.exceptions`` do not say why an actor died: ``ActorDiedError`` has the reason only in its text.
    """
    text = _COLOURS.sub("", str(error or ""))
    cause = Cause.OOM if "memory pressure" in text or "running low on memory" in text else Cause.LOST
    detail = re.search(r"exit detail: (.+?)(?: Some common causes|$)", text, re.MULTILINE)
    if detail:
        return detail[1].strip(), cause
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "error raised in its creation task" in lines[0]:
        return lines[-1], cause  # a traceback follows, whose last line is the error
    return (lines[0] if lines else "its process died"), cause


def find_address(text: str) -> str | None:
    """Return the address of the node on which a process died, where Ray names it."""
    found = _ADDRESS.search(_COLOURS.sub("", text))
    return found[1] if found else None


def count_memory_kills(own: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int | None:
    """Return how many processes of our control group the kernel killed for lack of memory; None if that is unknown."""
    try:
        entries = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    for _, controllers, path in entries:
        folders = {
            "": [cgroups / path.lstrip("/"), cgroups],
            "memory": [cgroups / "memory" / path.lstrip("/"), cgroups / "memory"],
        }
        # In a container, the path may be the host's. The group is then the mounted one.
        for folder in folders.get(controllers, []):
            for name in ("memory.events", "memory.oom_control"):
                found = _read_kills(folder / name)
                if found is not None:
                    return found
    return None


def _read_kills(path: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


class MemoryKills:
    """Compares the nodes' counters of out-of-memory kills with their last values.

    A node's counter is first read when the node is first seen, so that earlier kills are not blamed on a trial.
    """

    def __init__(self, count_here: Callable[[], int | None] = count_memory_kills) -> None:
        self._count_here = count_here
        self._known = {"": count_here()}
        self._asked: dict[str, ray.ObjectRef[int | None]] = {}
        self._next_look = 0.0

    def look(self) -> None:
        """Read the counters of nodes that have joined; cheap enough to call at every step."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        for address, node_id in _other_nodes().items():
            if address not in self._known and address not in self._asked:
                self._asked[address] = _ask(node_id)

    def grew(self, address: str | None) -> bool:
        """Return whether the node at an address had another kill; each kill counts once."""
        here, others = _this_address(), _other_nodes()
        if address in others:
            if address in self._asked:
                self._known[address] = _answer(self._asked.pop(address))
            return self._compare(address, _answer(_ask(others[address])))
        # Nothing is known about a node that is gone.
        return address in (None, here) and self._compare("", self._count_here())

    def _compare(self, address: str, now: int | None) -> bool:
        before = self._known.get(address)
        if now is None or before is None or now <= before:
            return False
        # Not `now`: of two kills, each explains one death, and each death asks here.
        self._known[address] = before + 1
        return True


def _other_nodes() -> dict[str, str]:
    """Return the other machines that are up: address -> node id."""
    here = _this_address()
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {node["NodeManagerAddress"]: node["NodeID"] for node in nodes if node["NodeManagerAddress"] != here}


def _this_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _ask(node_id: str) -> ray.ObjectRef[int | None]:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # Without a CPU, because the trials may have all of them; without retries, because the node may be gone.
    asked: ray.ObjectRef[int | None] = (
        ray.remote(count_memory_kills).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote()
    )
    return asked


def _answer(asked: ray.ObjectRef[int | None]) -> int | None:
    try:
        return ray.get(asked, timeout=_ASK_S)
    except (RayError, TimeoutError):
        return None
