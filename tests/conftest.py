"""What every test gets: a home and a cache of its own, and a token for Ray, so that no test reads or leaves anything in
the checkout or the user's HOME; but for matplotlib, which keeps a list of fonts there as soon as it is imported.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def _isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # One cache for the session: what is prepared there (scenes, trunk) is the same for all tests and takes seconds to
    # make.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ORCHESTRATOR_HOME", str(tmp_path_factory.mktemp("session_home")))
        # One token for the session as well: a process reads it once, and Ray takes none from a file that is not there.
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
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema, to be copied: making one takes seconds."""
    from orchestrator.tracking import store as mlflow_store

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_HOME", str(folder))
        mlflow_store.connect()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty ORCHESTRATOR_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder))
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
