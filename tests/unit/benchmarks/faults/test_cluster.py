"""Test that what a killed raylet left behind is found in the end, although nothing points to it any longer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks.faults import cluster as fault_cluster
from benchmarks.faults.cluster import FaultCluster

# Prints its child's pid once there is one; the child outlives it unless told otherwise.
_RAYLET = """
import subprocess, sys
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep({})"], **quiet)
print(worker.pid, flush=True)
input()
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FaultCluster:
    """Return a cluster without any node."""
    nothing = SimpleNamespace(
        head_node=None, worker_nodes=SimpleNamespace(discard=lambda node: None), shutdown=lambda: None
    )

    def start(self: FaultCluster) -> None:
        self._cluster, self._nodes = nothing, []

    monkeypatch.setattr(FaultCluster, "_start", start)
    for name in ("ensure_token", "use_token", "quieten"):
        monkeypatch.setattr(fault_cluster, name, lambda: None)
    monkeypatch.setattr(fault_cluster, "_GONE_S", 0.3)
    return FaultCluster()


@pytest.fixture
def add_node(cluster: FaultCluster) -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def add(outlives_s: float) -> psutil.Process:
        raylet = subprocess.Popen(
            [sys.executable, "-c", _RAYLET.format(outlives_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(raylet)
        assert raylet.stdout is not None
        worker = psutil.Process(int(raylet.stdout.readline()))
        cluster._nodes.append(SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=raylet)]}))
        return worker

    yield add
    for raylet in started:
        raylet.kill()
        raylet.communicate()


def test_a_worker_that_outlives_its_raylet_is_named_and_killed(cluster: FaultCluster, add_node: Any) -> None:
    worker = add_node(60)
    (node,) = cluster.nodes
    cluster.kill_node(node)
    assert cluster.processes() == []
    (title,) = cluster.shutdown()
    assert "time.sleep(60)" in title
    psutil.wait_procs([worker], timeout=0.3)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_ends_by_itself_is_none_left(cluster: FaultCluster, add_node: Any) -> None:
    add_node(0.1)
    (node,) = cluster.nodes
    cluster.kill_node(node)
    assert cluster.shutdown() == []


def test_a_part_of_ray_that_is_too_slow_is_started_again_and_leaves_nothing() -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        begun.append(subprocess.Popen(["sleep", "600"]))
        if len(begun) < 3:
            raise Exception("The current node timed out during startup. Perhaps the GCS is overloaded.")
        return "started"

    assert fault_cluster.start_patiently(start) == "started"
    assert [process.wait(5) for process in begun[:2]] == [-9, -9]
    begun[2].kill()
    begun[2].wait()
    with pytest.raises(ValueError, match="another"):
        fault_cluster.start_patiently(lambda: int("another"))
