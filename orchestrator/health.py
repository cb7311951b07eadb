"""Checks whether an HTTP server, MLflow or a database answers, and whether it accepts our credentials."""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.redaction import redact
from orchestrator.uris import join_uri
from training.errors import first_line

TIMEOUT_S = 5.0
_CONNECT_S = 10.0
_MAX_TEXT = 200
_TIMEOUT_ARGUMENT = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""The option for the connection time-out in seconds, by database driver."""


@dataclass(frozen=True)
class Answer:
    """What a service answered, if anything.

    Attributes:
        is_up: It answered something.
        is_refused: It answered, but does not accept the credentials or asks for some.
        reason: What is wrong, without passwords; empty if all is well.
    """

    is_up: bool
    is_refused: bool = False
    reason: str = ""

    @property
    def is_well(self) -> bool:
        """Whether it answered without a problem."""
        return self.is_up and not self.reason


def ask_server(
    uri: str,
    path: str = "health",
    *,
    headers: dict[str, str] | None = None,
    verify: bool | str = True,
    certificate: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Request a page from an HTTP server.

    Args:
        uri: Where the server is. A user name and password in it are sent as basic authentication.
        path: The page, below the URI.
        headers: Sent with the request.
        verify: Whether to check the server's certificate; a path names the authorities to trust.
        certificate: Path of our own certificate, if the server asks for one.
        timeout_s: How long to wait for the answer; for the connection it is at most 10 s.
    """
    import requests  # here, because every command imports this module and few ask a server

    # Give up quickly on a host that drops packets; a server that accepts the connection may just be busy.
    connect_s = min(timeout_s, _CONNECT_S)
    outer = sys.exception()
    try:
        answer = requests.get(
            join_uri(uri, path), headers=headers, verify=verify, cert=certificate, timeout=(connect_s, timeout_s)
        )
    except requests.ConnectTimeout:
        return Answer(is_up=False, reason=f"no connection within {connect_s:.0f} s")
    except requests.Timeout:
        return Answer(is_up=False, reason=f"no answer within {timeout_s:.0f} s")
    except (requests.RequestException, ValueError) as error:
        return Answer(is_up=False, reason=find_cause(error, outer))
    if answer.ok:
        return Answer(is_up=True)
    # A refusal often says why in plain text; a page of HTML says nothing that fits on a line.
    is_plain = "html" not in answer.headers.get("Content-Type", "")
    text = (answer.text.strip().splitlines() or [""])[0][:_MAX_TEXT] if is_plain else ""
    reason = redact(f"HTTP {answer.status_code}{f': {text}' if text else ''}")
    return Answer(is_up=True, is_refused=answer.status_code in (401, 403), reason=reason)


def ask_mlflow(uri: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Check whether an MLflow server is up and accepts the credentials that MLflow's own client would send."""
    headers = _mlflow_headers()
    verify: bool | str = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not _is_set(
        "MLFLOW_TRACKING_INSECURE_TLS"
    )
    own = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    answer = ask_server(uri, headers=headers, verify=verify, certificate=own, timeout_s=timeout_s)
    if answer.is_well:
        # MLflow answers /health without credentials: only a real request shows whether they are right.
        path = "api/2.0/mlflow/experiments/search?max_results=1"
        answer = ask_server(uri, path, headers=headers, verify=verify, certificate=own, timeout_s=timeout_s)
    # These sign each request inside MLflow's client. We cannot, so a refusal of our request means nothing.
    if answer.is_refused and (os.environ.get("MLFLOW_TRACKING_AUTH") or _is_set("MLFLOW_TRACKING_AWS_SIGV4")):
        return replace(answer, is_refused=False, reason="")
    return answer


def ask_database(uri: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Connect to a database by its SQLAlchemy URI and disconnect, without changing anything in it."""
    import sqlalchemy

    try:
        kind = sqlalchemy.make_url(uri).get_backend_name()
        waiting: dict[str, Any] = {_TIMEOUT_ARGUMENT[kind]: int(timeout_s)} if kind in _TIMEOUT_ARGUMENT else {}
        # NullPool, so that the connection is closed with the block instead of kept for later.
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=waiting)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select 1"))
    except ModuleNotFoundError as error:
        return Answer(is_up=False, reason=f"the Python package {error.name} is not installed")
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        return Answer(is_up=False, reason=_describe(getattr(error, "orig", None) or error))
    return Answer(is_up=True)


def find_cause(error: BaseException, outer: BaseException | None = None) -> str:
    """Return the first cause of an error: requests wraps `Connection refused` in three layers of its own.

    Args:
        error: The error.
        outer: What was being handled when the request was made, which is not a cause of its failure.
    """
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None and deeper is not outer:
        cause = deeper
    return _describe(cause)


def _mlflow_headers() -> dict[str, str]:
    """Return the header with MLflow's credentials: from the environment, else from ~/.mlflow/credentials."""
    saved: dict[str, str] = {}
    with suppress(OSError, ConfigError, UnicodeDecodeError):
        # A password may contain a percent sign.
        parser = ConfigParser(interpolation=None)
        parser.read(Path.home() / ".mlflow" / "credentials", encoding="utf-8")
        saved = dict(parser["mlflow"]) if "mlflow" in parser else {}
    user, password = (
        os.environ.get(name) or saved.get(name.lower())
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    if user and password:
        return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")


def _describe(error: BaseException) -> str:
    return redact((error.strerror if isinstance(error, OSError) else None) or first_line(error))[:_MAX_TEXT]
