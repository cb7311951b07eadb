from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from orchestrator import health
from orchestrator.health import Answer, ask_database
from tests.kit.http_service import basic, like_mlflow, serving

# A loaded machine may need longer than a user would wait.
ask_mlflow = partial(health.ask_mlflow, timeout_s=60.0)
ask_server = partial(health.ask_server, timeout_s=60.0)
PASSWORD = "hunter2-hunter2"
WELL = Answer(is_up=True)


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(params=[True, False], ids=["MLflow's own", "behind a proxy"])
def locked(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve like an MLflow that wants me and the password, or a token."""
    with serving(like_mlflow(basic("me", PASSWORD), "Bearer t0ken-t0ken", open_health=request.param)) as server:
        yield server


def test_a_server_answers_with_and_without_a_slash_at_the_end() -> None:
    with serving(like_mlflow()) as server:
        assert ask_server(f"http://{server}") == ask_server(f"http://{server}/") == WELL
        assert ask_mlflow(f"http://{server}/") == WELL


def test_credentials_in_the_uri_are_sent(locked: str) -> None:
    assert ask_mlflow(f"http://me:{PASSWORD}@{locked}") == WELL
    assert ask_mlflow(f"http://me:{PASSWORD}@{locked}/") == WELL


def test_credentials_of_the_environment_are_sent(locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_mlflow(f"http://{locked}").is_refused
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert ask_mlflow(f"http://{locked}") == WELL


def test_a_token_is_sent(locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-t0ken")
    assert ask_mlflow(f"http://{locked}") == WELL


def test_credentials_of_mlflow_s_own_file_are_sent(locked: str, tmp_path: Path) -> None:
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = {PASSWORD}\n")
    assert ask_mlflow(f"http://{locked}") == WELL


def test_a_password_with_special_characters_is_sent_as_it_is() -> None:
    with serving(like_mlflow(basic("me", "p@ss/word"))) as server:
        assert ask_mlflow(f"http://me:p%40ss%2Fword@{server}") == WELL


def test_wrong_credentials_are_refused_and_never_shown(locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask_mlflow(f"http://me:wrong-{PASSWORD}@{locked}")
    assert (answer.is_up, answer.is_refused) == (True, True)
    assert answer.reason.startswith("HTTP 401")
    assert PASSWORD not in answer.reason


def test_a_refusal_of_ours_means_nothing_where_mlflow_signs_each_request(
    locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    assert ask_mlflow(f"http://{locked}") == WELL


def test_a_web_server_that_is_no_mlflow_is_told_apart() -> None:
    with serving(lambda path, headers: (200, "hello") if path == "/health" else (404, "no such page")) as server:
        assert ask_mlflow(f"http://{server}") == Answer(is_up=True, reason="HTTP 404: no such page")


@pytest.mark.parametrize("uri", [f"http://me:{PASSWORD}@127.0.0.1:9", f"http://me:pa/{PASSWORD}@127.0.0.1:9/x"])
def test_a_server_that_is_away_is_told_without_the_password(uri: str) -> None:
    answer = ask_mlflow(uri)
    assert not answer.is_up
    assert answer.reason
    assert PASSWORD not in answer.reason
    assert ask_server("http://127.0.0.1:9").reason == "Connection refused"


def test_tls_where_the_server_speaks_none_is_told_by_its_cause() -> None:
    with serving(like_mlflow()) as server:
        assert "SSL" in ask_server(f"https://{server}").reason


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        answer = ask_server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
    assert (answer.is_up, answer.reason) == (False, "no answer within 0 s")


def test_databases_are_asked_by_connecting(tmp_path: Path) -> None:
    assert ask_database(f"sqlite:///{tmp_path / 'a.db'}") == WELL
    away = ask_database(f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:9/mlflow")
    assert not away.is_up
    assert "refused" in away.reason
    assert PASSWORD not in away.reason
    missing = ask_database(f"mysql+nonesuch://me:{PASSWORD}@127.0.0.1:9/mlflow")
    assert not missing.is_up
    assert PASSWORD not in missing.reason


def test_a_host_that_drops_packets_is_given_up_before_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[float, float]] = []

    def get(uri: str, *, timeout: tuple[float, float], **more: object) -> None:
        waited.append(timeout)
        raise requests.ConnectTimeout

    monkeypatch.setattr(requests, "get", get)
    assert health.ask_server("http://h", timeout_s=60.0).reason == "no connection within 10 s"
    assert health.ask_server("http://h", timeout_s=2.0).reason == "no connection within 2 s"
    assert waited == [(10.0, 60.0), (2.0, 2.0)]
