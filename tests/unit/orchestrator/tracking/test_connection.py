"""No answer from MLflow is a failure (exit code 1), "not found" is the user's mistake (2), whichever verb asks."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from orchestrator.errors import OrchestratorError
from orchestrator.health import Answer
from orchestrator.tracking import connection
from orchestrator.tracking.connection import (
    BrokenDatabaseError,
    MlflowFailedError,
    all_pages,
    answering,
    check_uri,
    make_client,
    require_answer,
    require_sound_database,
)
from orchestrator.tracking.registry import find_champion, find_other_champions
from orchestrator.tracking.store import MlflowStore
from orchestrator.tracking.tracker import sync
from tests.kit import sweeps
from tests.kit.program import run

URI = "http://me:hunter2@127.0.0.1:9"
RUN = "0" * 32
ASKING = {
    ("evaluate", "digits"): "orchestrator evaluate FOLDER",
    ("predict", "digits", "."): "orchestrator evaluate FOLDER",
    ("train", "--from", RUN): "orchestrator train --from SWEEP/TRIAL",
    ("leaderboard", "digits"): "orchestrator doctor",
}


class Client:
    """Answers that it is up, and raises for every other request."""

    def __init__(self, code: str) -> None:
        self._code = code

    def search_experiments(self, **how: Any) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        def fail(*args: Any, **how: Any) -> Any:
            raise MlflowException(f"request to {URI} failed", getattr(connection_codes(), self._code))

        return fail


def connection_codes() -> Any:
    from mlflow.protos import databricks_pb2

    return databricks_pb2


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server address at which nobody listens, and a folder with a picture to score."""
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    monkeypatch.setattr(connection, "SERVER_WAIT_S", 0.0)
    monkeypatch.setattr("orchestrator.tracking.store._LOOK_WAIT_S", 0.0)


@pytest.mark.parametrize("words", ASKING)
def test_server_that_is_away_is_a_failure(
    capsys: pytest.CaptureFixture[str], away: None, words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert "MLflow at http://me:***@127.0.0.1:9 failed" in err
    assert ASKING[words] in " ".join(err.split())
    assert "hunter2" not in err


@pytest.mark.parametrize("words", list(ASKING)[:3])
def test_server_that_fails_amid_a_request_is_a_failure(
    capsys: pytest.CaptureFixture[str], away: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(connection, "make_client", lambda: Client("TEMPORARILY_UNAVAILABLE"))
    code, _, err = run(capsys, *words)
    assert code == 1
    assert "MLflow at http://me:***@127.0.0.1:9 failed: MlflowException" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("words", ASKING)
def test_server_that_accepts_and_never_replies_is_a_failure(
    capsys: pytest.CaptureFixture[str], away: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(connection, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert "failed: no answer within 0 s" in err
    assert ASKING[words] in " ".join(err.split())


def test_silent_server_is_a_problem_of_the_writer_within_its_time_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(OrchestratorError, match="^no answer within 0 s$"):
            MlflowStore("digits")


def test_databases_are_asked_with_a_time_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def ask(uri: str, timeout_s: float) -> Answer:
        asked.append(timeout_s)
        return Answer(is_up=False, reason="timeout expired")

    monkeypatch.setattr(connection, "ask_database", ask)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://me@127.0.0.1:9/mlflow")
    with pytest.raises(OrchestratorError, match="^timeout expired$"):
        make_client()
    with pytest.raises(MlflowFailedError, match=r"failed: timeout expired\. Advice$"):
        require_answer("Advice")
    assert asked == [10.0, 10.0]


@pytest.mark.parametrize("words", ASKING)
@pytest.mark.parametrize("uri", ["blah://x", "file:///tmp/runs", "runs", "htp://host:5000"])
def test_what_mlflow_cannot_use_is_the_users_mistake(
    capsys: pytest.CaptureFixture[str], away: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "MLFLOW_TRACKING_URI must be a server (http://HOST:5000) or a database" in err
    assert f"but got {uri}" in err


def test_what_mlflow_can_use_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("databricks", "databricks://profile", "uc:http://host", "mssql+pyodbc://host/db", "https://host/path"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        check_uri()


def test_run_that_does_not_exist_is_the_users_mistake(
    capsys: pytest.CaptureFixture[str], away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "make_client", lambda: Client("RESOURCE_DOES_NOT_EXIST"))
    code, _, err = run(capsys, "train", "--from", RUN)
    assert code == 2
    assert f"has no run '{RUN}'" in err
    assert find_champion("digits.x") is None


def test_champion_is_not_missing_because_the_registry_does_not_answer(
    away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "make_client", lambda: Client("INTERNAL_ERROR"))
    with pytest.raises(MlflowFailedError):
        find_champion("digits.x")
    with pytest.raises(MlflowFailedError):
        find_other_champions("digits", "digits.x")


def test_what_our_own_code_raises_keeps_its_kind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "make_client", lambda: Client("INTERNAL_ERROR"))
    with pytest.raises(MlflowFailedError, match=r"failed: KeyError: 'x'\. Sweeps do not need MLflow"), answering():
        raise KeyError("x")


def test_all_pages_are_read() -> None:
    class Page(list[int]):
        token: str | None = None

    def search(token: str | None) -> Page:
        page = Page([1, 2] if token is None else [3])
        page.token = "more" if token is None else None
        return page

    assert list(all_pages(search)) == [1, 2, 3]


@pytest.mark.parametrize("damage", [b"no database at all", b"\0" * 4096, "page", "folder"])
def test_a_file_that_is_no_database_is_refused_at_once_with_how_to_replace_it(
    home: Path, empty_store: Path, damage: bytes | str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "mlflow.db"
    if damage == "folder":
        file.mkdir()
    elif damage == "page":
        content = empty_store.read_bytes()
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))  # its first page is whole
    else:
        assert isinstance(damage, bytes)
        file.write_bytes(damage)
    said = f"{file} is damaged, or not a database. Restore it from a copy, or move it away: then `orchestrator"
    with pytest.raises(BrokenDatabaseError) as refused, answering() as client:
        client.search_registered_models()
    assert said in str(refused.value)
    with pytest.raises(BrokenDatabaseError):
        sync(sweeps.make_sweep().id)
    code, _, err = run(capsys, "evaluate", "digits")
    assert (code, said in err) == (1, True)


def test_a_database_that_is_locked_is_not_damaged(home: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, home / "mlflow.db")
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        require_sound_database()
