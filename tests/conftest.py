"""Isolation: every test gets a home, a cache and a Ray token that are not the user's.

Tests may run in several processes (pytest-xdist). What is slow to make is then made once and shared. Tests that start
Ray stay in one process: two Rays on two cores would wait for each other, and race for ports.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

# With two processes on two cores, further threads of torch only wait for each other: a step took four times as long.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Set in a developer's shell, each of these would send the tests to another store, cluster or library mode.
LEAKY = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "ORCHESTRATOR_SWEEP",
)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of a run share; guard what is made in it with a lock."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def _isolated_environment(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Iterator[None]:
    # One cache for all: preparing scenes and trunk takes seconds and gives the same result for every test.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_folder / "cache"))
        patch.setenv("ORCHESTRATOR_HOME", str(tmp_path_factory.mktemp("session_home")))
        # One token per process: Ray reads it once, and takes none from a file that does not exist.
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(_make_token(tmp_path_factory.mktemp("ray_token"))))
        for name in LEAKY:
            patch.delenv(name, raising=False)
        yield


def _make_token(folder: Path) -> Path:
    token = folder / "auth_token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return token


@pytest.fixture(scope="session")
def empty_store(shared_folder: Path) -> Path:
    """A database with MLflow's schema, to be copied: making one takes seconds."""
    from orchestrator.tracking.connection import connect

    folder = shared_folder / "store"
    with FileLock(shared_folder / "store.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            patch.setenv("ORCHESTRATOR_HOME", str(folder))
            connect()
            (folder / "done").touch()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty ORCHESTRATOR_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder))
    return folder


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Keeps a file of tests in one process, and all files that start Ray in the same one.

    xdist's own ``loadgroup`` does nothing under pytest 9.1, which ignores the node id that xdist changes.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _starts_ray(self.config.rootpath / file) else file


@cache
def _starts_ray(file: Path) -> bool:
    """Return whether all tests of a file start Ray. Where only some do, those are ``long`` and run in one process."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return any(line.startswith("pytestmark") and "pytest.mark.ray" in line for line in lines)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """Choose which process runs a test."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long files first, so that at the end no process waits for the other."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        for item in items:
            if item.get_closest_marker("ray") and not item.get_closest_marker("long") and not _starts_ray(item.path):
                raise pytest.UsageError(f"{item.nodeid} starts Ray: mark it long, or its whole file ray by pytestmark.")
        items.sort(key=lambda item: (not _starts_ray(item.path), "integration" not in item.path.parts))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
