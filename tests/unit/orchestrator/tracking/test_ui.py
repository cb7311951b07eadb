from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.tracking import ui as browse

# Answers as MLflow does, and has a child that ignores SIGTERM, as a worker of its might.
SERVER = """
import http.server, subprocess, sys
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
child = deaf + "; print('child up', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE).stdout.readline()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "STOP_TIMEOUT_S", 0.3)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((browse.HOST, 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((browse.HOST, 0))
        taken.listen()
        yield taken.getsockname()[1]


def server_command(port: int) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_server_and_children(port: int, number: int) -> None:
    before = signal.getsignal(number)
    seen: list[psutil.Process] = []

    def on_ready(base: str) -> None:
        assert base == f"http://127.0.0.1:{port}"
        seen.extend(psutil.Process().children(recursive=True))
        os.kill(os.getpid(), number)

    browse.serve("sqlite:///nowhere.db", port, on_ready, command=server_command(port))
    assert len(seen) == 2
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in seen)
    assert signal.getsignal(number) is before


def test_store_uri_is_not_on_the_command_line(port: int) -> None:
    shown: list[str] = []

    def on_ready(base: str) -> None:
        server = psutil.Process().children()[0]
        shown.append(" ".join(server.cmdline()))
        assert server.environ()["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/mlflow"
        os.kill(os.getpid(), signal.SIGTERM)

    browse.serve("postgresql://me:secret@db/mlflow", port, on_ready, command=server_command(port))
    assert shown
    assert "secret" not in shown[0]


def test_taken_port_names_the_listener_and_the_next_free_one(listener: int) -> None:
    with pytest.raises(UserError, match=rf"Port {listener} .*process {os.getpid()}.*--port \d+") as caught:
        browse.require_free_port(listener)
    suggested = int(str(caught.value).rsplit(" ", 1)[-1])
    assert suggested > listener
    browse.require_free_port(suggested)


def test_port_that_just_closed_is_free(port: int) -> None:
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((browse.HOST, port))
        server.listen()
        client.connect((browse.HOST, port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first waits in TIME_WAIT
    time.sleep(0.05)
    browse.require_free_port(port)


def test_server_that_ends_at_once_shows_its_last_words(port: int) -> None:
    command = [sys.executable, "-c", "import sys; print('no such table: alembic_version'); sys.exit(3)"]
    with pytest.raises(OrchestratorError, match="code 3.*\nno such table: alembic_version"):
        browse.serve("sqlite:///nowhere.db", port, lambda base: pytest.fail("it never answered"), command=command)


def test_server_that_never_answers_is_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "START_TIMEOUT_S", 0.3)
    with pytest.raises(OrchestratorError, match="did not answer at .* within 0 s"):
        browse.serve(
            "sqlite:///nowhere.db",
            port,
            lambda base: None,
            command=[sys.executable, "-c", "import time; time.sleep(60)"],
        )
    assert not psutil.Process().children()


def test_server_runs_in_the_home(port: int, home: Path) -> None:
    def on_ready(base: str) -> None:
        assert Path(psutil.Process().children()[0].cwd()) == home
        os.kill(os.getpid(), signal.SIGTERM)

    browse.serve("sqlite:///nowhere.db", port, on_ready, command=server_command(port))


def test_run_url_has_no_double_slash() -> None:
    assert (
        browse.run_url("http://127.0.0.1:5000/", "3", "abc")
        == "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    )
