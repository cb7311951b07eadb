"""Notice that Ray is gone. Ray itself does not say so, and a driver's trials would seem to run forever.

Two deaths look different from a driver (measured with Ray 2.60). When the raylet is killed, as a machine without memory
does, ``ray.nodes()`` shows its node as dead within 15 s; new work for it waits without an error. When the GCS is killed
or stopped, ``ray.nodes()`` does not return, and after a time-out Ray ends the driver's process with a line in a log.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.cluster.session import kill_local_ray
from orchestrator.cluster.size import count_workers
from orchestrator.planning.sweep_plan import Resources
from orchestrator.terminal_text import show_controls

SILENCE_S = 60.0
"""Ray counts as gone if it has not answered for this long; a busy one answers within a few seconds."""
_LOOK_S = 5.0
_GRACE_S = 10.0
"""Time for the main thread to react. It may be inside a call to Ray that never returns."""

Nodes = Sequence[Mapping[str, Any]]


class RayWatch:
    """A thread that asks Ray for its nodes every few seconds.

    Args:
        address: Of the cluster; None for a Ray on this machine.
        on_loss: Called once, from another thread, with what happened. It must make the main thread call
            :meth:`stop` soon; otherwise the process ends with exit code 1.
        resume: The command that continues the sweep, for a process that must end here.
        ask: Returns the nodes; ``ray.nodes`` by default.
        own_node: The id of the node that this driver is connected to; Ray's by default.
        ask_free: Returns what nobody uses; ``ray.available_resources`` if ``ask`` is left out.

    Attributes:
        problem: What happened to Ray, or None.
    """

    def __init__(
        self,
        address: str | None,
        on_loss: Callable[[], None],
        *,
        resume: str,
        ask: Callable[[], Nodes] | None = None,
        own_node: str | None = None,
        ask_free: Callable[[], Mapping[str, float]] = dict,
        silence_s: float = SILENCE_S,
        look_s: float = _LOOK_S,
        grace_s: float = _GRACE_S,
    ) -> None:
        self.problem: str | None = None
        self._address, self._on_loss, self._resume = address, on_loss, resume
        self._ask, self._own_node, self._ask_free = ask, own_node, ask_free
        self._silence_s, self._look_s, self._grace_s = silence_s, look_s, grace_s
        self._nodes: Nodes = ()
        self._free: Mapping[str, float] = {}
        self._answered = time.monotonic()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start watching; call it once Ray runs."""
        if self._ask is None:
            import ray

            self._ask, self._own_node = ray.nodes, ray.get_runtime_context().get_node_id()
            self._ask_free = ray.available_resources
        self._answered = time.monotonic()
        # Two threads, because the one that asks may never get an answer.
        threading.Thread(target=self._keep_asking, name="ask Ray", daemon=True).start()
        threading.Thread(target=self._keep_looking, name="watch Ray", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; call it before Ray is stopped."""
        self._stopped.set()

    def find_shortage(self, resources: Resources) -> str | None:
        """Return why no node that is up can run a trial, or None; a lost node may have been the only one that could."""
        nodes = [node["Resources"] for node in self._nodes if node["Alive"]]
        if not nodes or sum(count_workers(node, resources) for node in nodes) >= resources.workers:
            return None
        up = f"{len(nodes)} node{'s are' if len(nodes) > 1 else ' is'} up"
        return f"each needs {resources.describe()}, which no longer fits on the nodes of the cluster ({up})"

    def describe_free(self, resources: Resources) -> str:
        """Say how much is free of what trials need: what is not, other jobs have, or the sweep itself."""
        name = "GPU" if resources.gpus_per_worker else "CPU"
        total = sum(node["Resources"].get(name, 0.0) for node in self._nodes if node["Alive"])
        return f"{self._free.get(name, 0.0):g} of {total:g} {name}s of the cluster are free"

    def _keep_asking(self) -> None:
        assert self._ask is not None
        while not self._stopped.is_set():
            try:
                self._nodes = self._ask()
                self._free = self._ask_free()
                self._answered = time.monotonic()
            except Exception:  # whatever Ray raises, it is no answer
                pass
            self._stopped.wait(self._look_s)

    def _keep_looking(self) -> None:
        looked = time.monotonic()
        while not self._stopped.wait(self._look_s / 5):
            now = time.monotonic()
            if now - looked > self._silence_s / 2:
                self._answered = now  # this process was suspended, as on a closed laptop: Ray gets its time again
            looked = now
            self.problem = self._find_problem(now)
            if self.problem is not None:
                self._on_loss()
                self._end_process()
                return

    def _find_problem(self, now: float) -> str | None:
        place = "Ray on this machine" if self._address is None else f"the Ray cluster at {self._address}"
        if now - self._answered > self._silence_s:
            return (
                f"{place} has not answered for {self._silence_s:.0f} s: its head (gcs_server) is stopped or was killed"
            )
        if any(node["NodeID"] == self._own_node and not node["Alive"] for node in self._nodes):
            where = "" if self._address is None else " of this node"
            return f"the raylet{where} was killed or hangs (a machine that runs out of memory kills it, for example)"
        return None

    def _end_process(self) -> None:
        """End the process if the main thread does not react: it waits for a Ray that will never answer."""
        if self._stopped.wait(self._grace_s):
            return
        print(show_controls(f"error: {describe_loss(str(self.problem), self._resume)}"), file=sys.stderr, flush=True)
        kill_local_ray()
        os._exit(1)


def describe_loss(problem: str, resume: str) -> str:
    """Return the message for a sweep that lost its Ray."""
    return f"Ray is gone: {problem}. No finished epoch is lost. Continue: {resume}"
