"""Starts a Ray cluster of several nodes on this machine as a user would: `ray start`, with token and dashboard."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.cluster.token import ensure_token

_START_S = 240.0
_MARK = "ORCHESTRATOR_TEST_CLUSTER"


class RayCluster:
    """A head and its workers, each with its own raylet.

    It uses the user's own token, and creates it if necessary: a process, such as that of the tests, reads it only once.

    Args:
        folder: For the output of the processes.
        environment: Variables of the nodes, in addition to the caller's.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self.token = ensure_token()
        # A short path, because the names of sockets below it are limited to about 100 characters.
        self._temp = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
        self.port, self.dashboard_port = _free_port(), _free_port()
        self._environment = os.environ | environment | self.client_environment()
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Some of Ray's processes write their title over their environment. We recognise them by their environment, so
        # SPT_NOENV keeps it readable.
        self._environment |= {_MARK: self._temp.name, "SPT_NOENV": "1"}
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """The address of the head, for processes on a node."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the job server."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def client_environment(self) -> dict[str, str]:
        """Return the variables that a client of the cluster needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}

    def start_head(self, num_cpus: int) -> None:
        """Start the head, and wait until its job server answers."""
        self._start(
            "--head",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--num-cpus={num_cpus}",
        )
        deadline = time.monotonic() + _START_S
        while not _answers(self.dashboard_port):
            assert time.monotonic() < deadline, "no head"
            time.sleep(0.5)

    def start_worker(self, num_cpus: int, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a worker node, with variables of its own; return the process that ends with it."""
        return self._start(f"--address={self.address}", f"--num-cpus={num_cpus}", environment=environment)

    def num_alive(self) -> int:
        """Return how many living nodes the head knows."""
        code = (
            "import ray; ray.init(address=%r, log_to_driver=False); print('alive', sum(node['Alive'] for node in "
            "ray.nodes()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code % self.address],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.rpartition("alive")[2])

    def stop(self) -> None:
        """Kill all processes of the cluster, and no others: they are recognised by their environment."""
        processes = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        for node in self._nodes:
            node.wait(timeout=120)
        psutil.wait_procs(processes, timeout=120)
        self._temp.cleanup()

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.environ().get(_MARK) == self._temp.name
        return False

    def _start(self, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        # One folder per node: in a shared one, every node would unpack a job's code again, over the code that runs.
        temp = Path(self._temp.name, str(len(self._nodes)))
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--temp-dir={temp}",
            *options,
        ]
        command += [
            "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={_free_port()}",
            "--disable-usage-stats",
        ]
        with (self._folder / f"node-{len(self._nodes)}.log").open("w") as log:
            node = subprocess.Popen(
                command,
                env=self._environment | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(node)
        return node


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
