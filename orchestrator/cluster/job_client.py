"""Calls the job server of a Ray cluster, and turns its errors into messages that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator import ray_compat
from orchestrator.cluster.session import quieten
from orchestrator.cluster.token import token_file, use_token
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.health import ask_server, find_cause
from orchestrator.redaction import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where `ray dashboard cluster.yaml` makes the head's job server reachable on this machine."""
_ANSWER_S = 60.0
# Ray's client would prefer an address in one of these variables to the one it is given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def require_http(address: str) -> str:
    """Return the address of a job server without a slash at its end.

    Raises:
        UserError: It is not an HTTP address, or it holds a password.
    """
    if redact(address) != address:
        raise UserError(
            f"--address must hold no credentials, but got --address={redact(address)}. Ray's token is read from a file."
        )
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"--address must be the URL of a job server, but got --address={address}. "
            f"For example: --address {DEFAULT_ADDRESS}, after `ray dashboard cluster.yaml`"
        )
    return address.rstrip("/")


@contextmanager
def calling(address: str) -> Iterator[JobSubmissionClient]:
    """Connect to a job server for the duration of a ``with`` block.

    Raises:
        OrchestratorError: It does not answer, refuses our token, or reports an error.
    """
    quieten()
    use_token()
    # Ray's client has no time-out and waits for minutes for a host that drops packets, so ask first.
    answer = ask_server(address, "api/version", timeout_s=_ANSWER_S)
    if not answer.is_up:
        raise _unreachable(address, answer.reason)

    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    ray_compat.quieten_job_client()
    hidden = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError:
        raise OrchestratorError(
            f"The cluster at {address} refuses our token ({token_file()}). "
            "Copy ~/.ray/auth_token from the head to it, or name another: RAY_AUTH_TOKEN_PATH=FILE"
        ) from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise _unreachable(address, find_cause(error)) from None
    except RuntimeError as error:
        raise OrchestratorError(f"The job server at {address} reports: {redact(str(error))}") from None
    finally:
        os.environ.update(hidden)


def _unreachable(address: str, reason: str) -> OrchestratorError:
    return OrchestratorError(
        f"No Ray cluster answers at {address} ({reason}). Start one: orchestrator cluster up. If it is up, forward its "
        "port to this machine: ray dashboard cluster.yaml. If it is elsewhere: --address URL"
    )
