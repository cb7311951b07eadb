from __future__ import annotations

import socket

import pytest
import requests

from orchestrator.cluster import job_client
from orchestrator.cluster.job_client import calling, require_http
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.health import Answer


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "auto"])
def test_jobs_are_submitted_over_http_only(address: str) -> None:
    with pytest.raises(UserError, match="--address must be the URL of a job server"):
        require_http(address)


def test_address_without_credentials_loses_its_slash_and_one_with_them_is_refused() -> None:
    assert require_http("http://head:8265/") == "http://head:8265"
    with pytest.raises(UserError, match="must hold no credentials") as refused:
        require_http("https://me:hunter2@head:8265")
    assert "hunter2" not in str(refused.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "_ANSWER_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OrchestratorError, match="No Ray cluster answers at .*no answer within"), calling(address):
            pass


def test_a_server_that_goes_away_in_between_is_named_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def __init__(self, address: str) -> None:
            raise requests.ConnectionError("wrapped") from ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Away)
    monkeypatch.setattr(job_client, "ask_server", lambda address, path, timeout_s: Answer(is_up=True))
    message = r"No Ray cluster answers at http://head:8265 \(Connection reset by peer\)"
    with pytest.raises(OrchestratorError, match=message), calling("http://head:8265"):
        pass
