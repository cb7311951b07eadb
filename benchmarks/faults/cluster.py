"""Runs a real Ray cluster of several raylets on this machine, with token authentication, and kills parts of it."""

from __future__ import annotations

import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cluster.session import quieten
from orchestrator.cluster.token import ensure_token, use_token

# Only a failure takes this long. Ray releases the placement group of a killed trial once it knows that the processes
# above it are dead, which on a loaded machine takes more than 30 s.
_GONE_S = 120.0
_STEP_S = 0.2


def start_patiently(start: Callable[[], Any]) -> Any:
    """Start a part of Ray, and try again if a busy machine needs longer than the 30 s that Ray allows."""
    num_tries = 0
    while True:
        num_tries, before = num_tries + 1, set(psutil.Process().children())
        try:
            return start()
        except Exception as error:  # Ray raises a bare one
            if num_tries == 3 or "timed out during startup" not in str(error):
                raise
            for process in set(psutil.Process().children()) - before:
                for each in [*process.children(recursive=True), process]:
                    with suppress(psutil.Error):
                        each.kill()


class FaultCluster:
    """A head without CPUs for trials, and several nodes.

    It uses the user's own token, and creates it if necessary: a process reads its token only once.

    Args:
        num_nodes: Nodes in addition to the head.
        num_cpus: CPUs of each node.
    """

    def __init__(self, *, num_nodes: int = 3, num_cpus: int = 2) -> None:
        self._num_cpus, self._num_nodes = num_cpus, num_nodes
        ensure_token()
        use_token()
        quieten()
        self._session: Path | None = None
        self._left_behind: list[psutil.Process] = []
        self._started: list[subprocess.Popen[bytes]] = []
        self._start()

    @property
    def address(self) -> str:
        """Where drivers reach it."""
        return str(self._cluster.address)

    @property
    def nodes(self) -> list[Any]:
        """The living nodes without the head, the oldest first."""
        return list(self._nodes)

    def add_node(self) -> None:
        """Start one more node."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = start_patiently(lambda: self._cluster.add_node(num_cpus=self._num_cpus))
        self._nodes.append(node)
        self._note(node)

    def kill_node(self, node: Any) -> None:
        """Kill a node's raylet with -9; the processes under it must notice and end by themselves."""
        self._nodes.remove(node)
        self._cluster.worker_nodes.discard(node)
        # Record them now: once the raylet is dead, they have no parent. psutil also compares the start time, so a
        # later process with the same pid is not mistaken for one of them.
        self._left_behind += self.processes(node)
        raylet_of(node).kill()

    def kill_head(self) -> None:
        """Kill everything with -9, the head first."""
        found = self.processes()
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_GONE_S)
        self._reap()
        self._forget_session()

    def restart(self) -> None:
        """Start a new cluster to replace a killed one, at another address."""
        self._start()

    def processes(self, node: Any | None = None) -> list[psutil.Process]:
        """Return all living processes of the cluster, or those under one node's raylet."""
        found: list[psutil.Process] = []
        for each in [self._cluster.head_node, *self._nodes] if node is None else [node]:
            for infos in [] if each is None else each.all_processes.values():
                for info in infos:
                    with suppress(psutil.Error):
                        process = psutil.Process(info.process.pid)
                        found += [process, *process.children(recursive=True)]
        return [process for process in found if _lives(process)]

    def find(self, word: str, node: Any | None = None) -> list[psutil.Process]:
        """Return the living workers whose title contains a word, such as ``RayTrainWorker``."""
        return [process for process in self.processes(node) if word in _title(process)]

    def node_of(self, process: psutil.Process) -> Any:
        """Return the node that a worker runs on; None if it is on the head."""
        pids = {parent.pid for parent in process.parents()}
        return next((node for node in self._nodes if raylet_of(node).pid in pids), None)

    def groups(self) -> list[str]:
        """Return the names of the placement groups that still hold resources."""
        table = self._cluster.global_state.placement_group_table()
        return [group["name"] or key for key, group in table.items() if group["state"] != "REMOVED"]

    def wait_for_no_groups(self, timeout_s: float = _GONE_S) -> list[str]:
        """Wait until no placement group is left; return those that still are when time is up."""
        deadline = time.monotonic() + timeout_s
        while (left := self.groups()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def shutdown(self) -> list[str]:
        """Stop the cluster; return the titles of processes that did not end by themselves. There should be none."""
        found = self.processes() + self._left_behind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._cluster.shutdown()
        deadline = time.monotonic() + _GONE_S
        while (left := [process for process in found if _lives(process)]) and time.monotonic() < deadline:
            time.sleep(_STEP_S)
        titles = [_title(process) for process in left]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        self._reap()
        self._forget_session()
        return titles

    def _start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray.cluster_utils import Cluster

            head = {"num_cpus": 0, "include_dashboard": False}
            cluster: Any = start_patiently(
                lambda: Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
            )
        self._cluster = cluster
        self._note(cluster.head_node)
        self._session = Path(cluster.head_node.get_session_dir_path())
        self._nodes: list[Any] = []
        for _ in range(self._num_nodes):
            self.add_node()

    def _note(self, node: Any) -> None:
        self._started += [info.process for infos in node.all_processes.values() for info in infos]

    def _reap(self) -> None:
        """Wait for our own dead children: they would stay zombies, and cause warnings, until this process ends."""
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GONE_S)
        self._started.clear()

    def _forget_session(self) -> None:
        if self._session is not None and self._session.name.startswith("session_"):
            shutil.rmtree(self._session, ignore_errors=True)


def raylet_of(node: Any) -> psutil.Process:
    """Return the process of a node's raylet."""
    (info,) = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
