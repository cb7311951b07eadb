"""Reads and checks Ray's cluster files, and runs Ray's own commands, which start and stop the machines."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator import ray_compat
from orchestrator.cluster.token import ensure_token
from orchestrator.errors import OrchestratorError, UserError
from search_spaces.reader import SpaceError, compose, read_text

CONFIG_FILE = "cluster.yaml"
_ENVIRONMENT_FILE = "~/.orchestrator.env"
_TOKEN_FILE = "~/.ray/auth_token"
# Placeholders in the shipped files, to be replaced by the user's own values.
# No real address can be among them: RFC 5737 keeps 192.0.2.x for examples.
_PLACEHOLDERS = re.compile(r"sg-0{17}|192\.0\.2\.\d+")
_ON_NODE = "orchestrator.cluster.on_node"
_NO_AWS_CREDENTIALS = "NoCredentialsError"
_WHERE_TO_GET = {
    "aws": "Install AWS's command line: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": "Install AWS's plugin for sessions: "
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html",
}
_RAY_START = re.compile(r"([^;&|]*?)\bray start\b")


@dataclass(frozen=True)
class RayCommand:
    """One of Ray's own commands, and the variables that it needs in addition; as text, what a user would type."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.words)])


def render_up(config: Path, document: Mapping[str, Any], *, yes: bool = False) -> RayCommand:
    """Return the command that starts or updates the cluster of a file; it asks for confirmation unless ``yes``."""
    # The second version of Ray's autoscaler never notes that the head of an on-prem cluster is up: it starts no worker.
    is_local = document["provider"].get("type") == "local"
    environment = {"RAY_UP_enable_autoscaler_v2": "0"} if is_local else {}
    return RayCommand(["ray", "up", str(config), *(["--yes"] if yes else [])], environment)


def render_status(config: Path, document: Mapping[str, Any]) -> RayCommand:
    """Return the command that runs ``ray status`` on the head, with the Ray that the file starts there."""
    return RayCommand(["ray", "exec", str(config), f"{find_prefix(document)}ray status"])


def render_running(config: Path, document: Mapping[str, Any]) -> RayCommand:
    """Return the command that lists the drivers on the head."""
    return RayCommand(["ray", "exec", str(config), f"{find_prefix(document)}python -m {_ON_NODE} running"])


def render_wait(config: Path, document: Mapping[str, Any], limit_s: float) -> RayCommand | None:
    """Return the command that waits on the head for the workers that a file promises; None if it promises none."""
    names = [str(name) for name in document["provider"].get("worker_ips") or []]
    number = _count_promised(document)
    if number == 0:
        return None
    command = shlex.join(["python", "-m", _ON_NODE, "wait", f"{limit_s:.0f}", str(number), *names])
    return RayCommand(["ray", "exec", str(config), f"{find_prefix(document)}{command}"])


def render_down(config: Path, *, yes: bool = False) -> RayCommand:
    """Return the command that stops the cluster of a file; it asks for confirmation unless ``yes``."""
    return RayCommand(["ray", "down", str(config), *(["--yes"] if yes else [])])


def read_cluster(config: Path) -> dict[str, Any]:
    """Return the content of a cluster file, checked against Ray's own schema.

    Raises:
        UserError: The file does not exist, is not YAML, or Ray refuses it.
    """
    if not config.is_file():
        raise UserError(
            f"{config} does not exist. Run this in the checkout, which has {CONFIG_FILE} for AWS, or name another "
            "file: --config cluster/on-prem.yaml"
        )
    try:
        text = read_text(config, str(config))
        compose(text, str(config))  # Ray would write all aliases out, however many
        document = YAML(typ="safe", pure=True).load(text)
    except SpaceError as error:
        raise UserError(str(error)) from None
    except YAMLError as error:
        raise UserError(f"{config} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(
            f"{config}: the file must be a mapping (key: value). See {CONFIG_FILE} in the checkout for an example."
        )
    plain: dict[str, Any] = document
    check_schema(plain, str(config))
    return plain


def check_schema(document: Mapping[str, Any], name: str) -> None:
    """Check a cluster file as ``ray up`` does.

    Raises:
        UserError: Ray refuses it.
    """
    # Ray prints and logs remarks even about valid files.
    said, level = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            ray_compat.check_cluster_schema(document)
    except Exception as error:  # from jsonschema, click, Ray or Python, depending on what is wrong
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        message = str(getattr(error, "message", error))
        raise UserError(f"Ray refuses {name}{f', at {where}' if where else ''}: {message}") from None
    finally:
        logging.disable(level)


def check_ready(document: Mapping[str, Any], name: str, *, create_token: bool = True) -> None:
    """Check that a cluster can be started: all values are filled in, and all files to copy to the nodes exist.

    Args:
        document: The cluster file.
        name: Its name, for messages.
        create_token: Create Ray's token if it is among those files and does not exist. A dry run does not need it yet.

    Raises:
        UserError: A value is still the example's, or a file is missing or readable by others.
    """
    left = sorted(set(_PLACEHOLDERS.findall(str(document))))
    if left:
        raise UserError(
            f"{name} still has the example values {', '.join(left)}. Fill in your own values where it is marked <--."
        )
    _require_programs(document, name)
    mounts = [str(local) for local in dict(document.get("file_mounts") or {}).values()]
    if _TOKEN_FILE in mounts and create_token:
        ensure_token()
    for local in mounts if create_token else [local for local in mounts if local != _TOKEN_FILE]:
        path = Path(local).expanduser()
        if not path.exists():
            raise UserError(f"{local}, in file_mounts of {name}, does not exist. {_suggest_mount(local)}")
    private = Path(_ENVIRONMENT_FILE).expanduser()
    if _ENVIRONMENT_FILE in mounts and private.stat().st_mode & 0o077:
        raise UserError(
            f"Others can read {_ENVIRONMENT_FILE}, which holds passwords: it has mode "
            f"{private.stat().st_mode & 0o777:o}. Fix it: chmod 600 {_ENVIRONMENT_FILE}"
        )


def ask_ray(command: RayCommand, timeout_s: float) -> list[str] | None:
    """Run one of Ray's own commands without showing it; return the lines of its output, or None if it fails."""
    try:
        done = subprocess.run(
            _locate(command),
            env=_environment(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


def run_ray(command: RayCommand, advice: str, timeout_s: float | None = None) -> None:
    """Run one of Ray's own commands in this terminal, with the token, and wait until it ends.

    A traceback of Ray's is not shown: its last line says what failed.

    Args:
        command: The command.
        advice: What to do if it fails.
        timeout_s: How long it may take; None is without a limit, for commands that ask the user.

    Raises:
        OrchestratorError: The command is missing, fails, or takes too long.
    """
    try:
        process = subprocess.Popen(
            _locate(command),
            env=_environment(command),
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise OrchestratorError(
            f"Cannot run {command.words[0]} ({error.strerror}). Install it in the checkout: make setup"
        ) from None
    # A timer, because reading stderr blocks, and a time-out of wait() would only begin afterwards.
    limit = threading.Timer(timeout_s or threading.TIMEOUT_MAX, process.kill)
    limit.daemon = True
    limit.start()
    try:
        with process:
            reason = _forward(process.stderr or ())
    finally:
        limit.cancel()
    if process.returncode == -signal.SIGKILL and timeout_s is not None:
        reason = f"it did not end within {timeout_s:.0f} s"
    if process.returncode:
        if _NO_AWS_CREDENTIALS in reason:
            advice = "Run `aws configure`, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        reason = reason or f"exit code {process.returncode}, see its output above"
        raise OrchestratorError(f"`{command}` failed: {reason}. {advice}")


def _forward(lines: Iterable[str]) -> str:
    """Print the lines of a command up to its traceback; return the traceback's last line, or nothing."""
    withheld: list[str] = []
    for line in lines:
        if withheld or line.startswith("Traceback "):
            withheld.append(line.strip())
        else:
            print(line, end="", file=sys.stderr, flush=True)
    return next((line for line in reversed(withheld) if line), "").rstrip(".")


def _locate(command: RayCommand) -> list[str]:
    program, *words = command.words
    # Prefer the Ray of this environment: the shell might find another one, or none.
    beside = Path(sys.executable).with_name(program)
    return [str(beside) if beside.exists() else program, *words]


def _environment(command: RayCommand) -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **command.environment}


def _count_promised(document: Mapping[str, Any]) -> int:
    """Return the number of workers that a cluster has at all times."""
    if (workers := document["provider"].get("worker_ips")) is not None:
        return min(len(workers), int(document.get("min_workers", len(workers))))
    kinds = document.get("available_node_types") or {}
    return sum(int(kind.get("min_workers") or 0) for kind in kinds.values())


def find_prefix(document: Mapping[str, Any]) -> str:
    """Return the part before ``ray start`` in the file, which enters the nodes' environment."""
    for command in document.get("head_start_ray_commands") or []:
        found = _RAY_START.search(str(command))
        if found:
            return found.group(1).lstrip()
    return ""


def _require_programs(document: Mapping[str, Any], name: str) -> None:
    """Check that the programs of ``ssh_proxy_command`` are there: without them, Ray would only repeat that SSH is not
    available yet.

    Raises:
        UserError: One is missing.
    """
    command = str((document.get("auth") or {}).get("ssh_proxy_command") or "")
    words = command.split()
    needed = words[:1] + (["session-manager-plugin"] if words[:2] == ["aws", "ssm"] else [])
    for program in needed:
        if shutil.which(program) is None:
            where = _WHERE_TO_GET.get(program, "Install it")
            raise UserError(f"{name} connects through `{command}`, but {program} is not installed here. {where}.")


def _suggest_mount(local: str) -> str:
    if local == _ENVIRONMENT_FILE:
        return f"It holds the nodes' environment and may be empty. Create it: touch {local} && chmod 600 {local}"
    return "Run this in the checkout: the nodes get their code from there."
