"""Ray's cluster files and commands: read, check, render, run. Ray starts and ends the machines; nothing of that is done
here.
"""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator import ray_compat
from orchestrator.cluster.token import ensure_token
from orchestrator.errors import OrchestratorError, UserError

CONFIG_FILE = "cluster.yaml"
_ENVIRONMENT_FILE = "~/.orchestrator.env"
_TOKEN_FILE = "~/.ray/auth_token"
# What the shipped files have in place of a value that is the user's.
_PLACEHOLDERS = re.compile(r"sg-0{17}|192\.0\.2\.\d+")
_RAY_START = re.compile(r"([^;&|]*?)\bray start\b")


def render_up(config: Path, *, yes: bool = False) -> list[str]:
    """Return the command that starts or updates the cluster of a file; without ``yes`` it asks before it does."""
    return ["ray", "up", str(config), *(["--yes"] if yes else [])]


def render_status(config: Path, document: Mapping[str, Any]) -> list[str]:
    """Return the command that asks the head what there is, in the environment in which the file starts Ray there."""
    return ["ray", "exec", str(config), f"{_prefix(document)}ray status"]


def render_down(config: Path, *, yes: bool = False) -> list[str]:
    """Return the command that ends the cluster of a file; without ``yes`` it asks before it does."""
    return ["ray", "down", str(config), *(["--yes"] if yes else [])]


def read_cluster(config: Path) -> dict[str, Any]:
    """Return what a cluster file says, checked by Ray's own schema.

    Raises:
        UserError: There is no such file, it is no YAML, or Ray refuses it.
    """
    if not config.is_file():
        raise UserError(
            f"--config must be a cluster file, but got --config={config}, which is not there. "
            f"Stand in the checkout, whose {CONFIG_FILE} is for AWS, or name another one: --config cluster/on-prem.yaml"
        )
    try:
        document = YAML(typ="safe", pure=True).load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{config} must be a YAML file that can be read, but: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(
            f"{config} must be a mapping (key: value), but it is none. {CONFIG_FILE} of the checkout is an example."
        )
    plain: dict[str, Any] = document
    check_schema(plain, str(config))
    return plain


def check_schema(document: Mapping[str, Any], name: str) -> None:
    """Check a cluster file as ``ray up`` does.

    Raises:
        UserError: Ray refuses it.
    """
    # It comments on files that are all right, on the terminal and by logging.
    said, level = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            ray_compat.check_cluster_schema(document)
    except Exception as error:  # of jsonschema, click, Ray and Python, as the fault may be
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        message = str(getattr(error, "message", error))
        raise UserError(
            f"{name} must be a cluster file that Ray accepts, but{f' at {where}' if where else ''}: {message}"
        ) from None
    finally:
        logging.disable(level)


def check_ready(document: Mapping[str, Any], name: str) -> None:
    """Check that a cluster file can be started from here: its values filled in, all that it copies to the nodes there.

    The token of Ray is made if it is copied and not there.

    Raises:
        UserError: A value is still the example's, or a file is missing or readable by others.
    """
    left = sorted(set(_PLACEHOLDERS.findall(str(document))))
    if left:
        raise UserError(
            f"{name} must name your own machines, but it still has {', '.join(left)}. Fill in the values marked <--."
        )
    mounts = [str(local) for local in dict(document.get("file_mounts") or {}).values()]
    if _TOKEN_FILE in mounts:
        ensure_token()
    for local in mounts:
        path = Path(local).expanduser()
        if not path.exists():
            raise UserError(
                f"file_mounts of {name} must name what is there, but got {local}, which is not. {_mend_mount(local)}"
            )
    private = Path(_ENVIRONMENT_FILE).expanduser()
    if _ENVIRONMENT_FILE in mounts and private.stat().st_mode & 0o077:
        raise UserError(
            f"{_ENVIRONMENT_FILE} must be yours alone to read, but got mode {private.stat().st_mode & 0o777:o}. "
            f"Mend it: chmod 600 {_ENVIRONMENT_FILE}"
        )


def run_ray(command: Sequence[str]) -> None:
    """Run one of Ray's own commands to its end, on this terminal, with the token.

    Raises:
        OrchestratorError: It failed.
    """
    program, *words = command
    # The one beside this Python: the user's shell may find another Ray, or none.
    beside = Path(sys.executable).with_name(program)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        code = subprocess.run(
            [str(beside) if beside.exists() else program, *words], env=environment, check=False
        ).returncode
    except OSError as error:
        raise OrchestratorError(
            f"{program} must be installed, but it cannot be run ({error.strerror}). Set it up: make setup"
        ) from None
    if code:
        raise OrchestratorError(f"`{' '.join(command)}` must end with 0, but got {code}. What it said stands above.")


def _prefix(document: Mapping[str, Any]) -> str:
    """Return what stands before ``ray start`` in the file: the way into the nodes' environment."""
    for command in document.get("head_start_ray_commands") or []:
        found = _RAY_START.search(str(command))
        if found:
            return found.group(1).lstrip()
    return ""


def _mend_mount(local: str) -> str:
    if local == _ENVIRONMENT_FILE:
        return f"It holds the nodes' environment, and may be empty: touch {local} && chmod 600 {local}"
    return "Stand in the checkout: its packages are what the nodes run."
