"""Serve MLflow's UI on the loopback address until the user stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO
from urllib.parse import urlencode

import psutil

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.health import ask_server
from orchestrator.home import artifacts_dir, home
from orchestrator.tracking.views import TRAINING_MODE

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.25
_ANSWER_S = 2.0
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _StopRequest:
    """Whether a signal asked us to stop.

    It is polled, because an exception raised by a handler could come between a start and the code that ends what was
    started.
    """

    made: bool = False


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{base.rstrip('/')}/{run_path(experiment_id, run_id)}"


def run_path(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, without the server's, as a link on another page of it."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{urlencode(TRAINING_MODE)}"


def require_free_port(port: int) -> None:
    """Check that the UI can listen on a port of the loopback address.

    Raises:
        UserError: The port is taken or not allowed; the message names the next free one.
    """
    if not _is_free(port):
        # A short search: the first free port is nearly always the next one.
        other = next((candidate for candidate in range(port + 1, min(port + 100, 65536)) if _is_free(candidate)), None)
        hint = f"orchestrator browse --port {other}" if other else "orchestrator browse --port <another>"
        raise UserError(f"Port {port} is not free{_describe_listener(port)}. Use another one: {hint}")


def serve(store_uri: str, port: int, on_ready: Callable[[str], None], *, command: list[str] | None = None) -> None:
    """Run the UI until Ctrl-C, SIGTERM or SIGHUP, then end it with all its children.

    Args:
        store_uri: MLflow's URI.
        port: The port to listen on.
        on_ready: Called with the base address once the UI answers.
        command: What to start instead of MLflow, for tests.

    Raises:
        UserError: The port is taken.
        OrchestratorError: The UI ended by itself or does not answer; the message has the end of its output.
    """
    require_free_port(port)
    base = f"http://{HOST}:{port}"
    # A pipe would fill up and block the server; a file does not.
    with tempfile.TemporaryFile() as output, _stop_signals() as stop:
        server = _start(command or _ui_command(port), store_uri, output)
        try:
            if _wait_until_ready(server, base, stop, output):
                on_ready(base)
            while not stop.made:
                _require_running(server, output)
                time.sleep(_POLL_S)
        finally:
            _stop(server)


def _ui_command(port: int) -> list[str]:
    return [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]


def _start(command: list[str], store_uri: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        # Passed in the environment, because a URI may contain a password, and command lines are public on a machine.
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts_dir().as_uri(),
        # We run no jobs in the server; without job execution it starts twice as fast and with seven fewer processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # In a session of its own, so that Ctrl-C reaches only us, and all its processes can be found and ended.
    return subprocess.Popen(command, cwd=home(), env=environment, stdout=output, stderr=output, start_new_session=True)


def _wait_until_ready(server: subprocess.Popen[bytes], base: str, stop: _StopRequest, output: IO[bytes]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stop.made:
        _require_running(server, output)
        if ask_server(base, timeout_s=_ANSWER_S).is_well:
            return True
        if time.monotonic() > deadline:
            raise OrchestratorError(
                f"MLflow's UI did not answer at {base} within {START_TIMEOUT_S:.0f} s. Its output:{_tail(output)}"
            )
        time.sleep(_POLL_S)
    return False


def _require_running(server: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    if server.poll() is not None:
        raise OrchestratorError(
            f"MLflow's UI ended by itself with exit code {server.returncode}. Its output:{_tail(output)}"
        )


def _stop(server: subprocess.Popen[bytes]) -> None:
    # MLflow's server starts workers that outlive it if only the server itself is ended.
    processes = _family(server.pid)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    # A worker that waits for a database may not react to SIGTERM.
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=STOP_TIMEOUT_S)
    server.wait()


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its children, found by their session, because some of them have lost their parent."""
    family = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == pid:
                family.append(process)
    return family


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    request = _StopRequest()

    def stop(number: int, frame: FrameType | None) -> None:
        request.made = True

    # SIGHUP as well: closing the terminal must not leave the server behind.
    before = {number: signal.signal(number, stop) for number in _STOPPING}
    try:
        yield request
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Like the server: a port counts as free even if its last connection is still in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _describe_listener(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f": {psutil.Process(connection.pid).name()} (process {connection.pid}) listens on it"
    return ""


def _tail(output: IO[bytes], num_lines: int = 10) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return "\n".join(["", *lines[-num_lines:]])
