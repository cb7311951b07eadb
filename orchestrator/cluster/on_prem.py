"""Reaches the machines of an on-prem cluster over SSH: whether they answer, what runs on them, and stops it.

Ray's own ``ray down`` does not do that: it runs a bare ``ray stop`` on the head, where that is not on the PATH, and
never contacts the workers.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster import on_node
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.ray_compat import local_state_file

# As Ray connects, which does not know the machines' keys either.
_OPTIONS = (
    "-oBatchMode=yes",
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oLogLevel=ERROR",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=6",
)
# Exit codes of ssh and of a shell.
_NO_CONNECTION, _NOT_FOUND = 255, 127
_PROGRAMS = ("ssh", "rsync")


@dataclass(frozen=True)
class OnPrem:
    """The machines of a cluster file whose provider is ``local``.

    Attributes:
        name: The cluster's.
        head: The head's address from here.
        workers: The workers' addresses, as the head sees them.
        user, key: Whom to log in as, and with which private key, if the file names one.
        proxy: The file's ``ssh_proxy_command``, if it has one.
        is_outside: Whether workers are reached through the head, because this machine is in another network.
        prefix: What comes before ``ray`` and ``python`` on a node.
    """

    name: str
    head: str
    workers: tuple[str, ...]
    user: str
    key: str | None
    proxy: str | None
    is_outside: bool
    prefix: str

    def ssh(self, machine: str, command: str) -> list[str]:
        """Return the words that run a command on a machine."""
        proxy = self.proxy
        if machine != self.head and self.is_outside:
            proxy = shlex.join([*self._connect(self.proxy), "-W", "%h:%p", f"{self.user}@{self.head}"])
        return [*self._connect(proxy), f"{self.user}@{machine}", command]

    def _connect(self, proxy: str | None) -> list[str]:
        key = ["-i", str(Path(self.key).expanduser())] if self.key else []
        return ["ssh", *_OPTIONS, *key, *([f"-oProxyCommand={proxy}"] if proxy else [])]


def find_machines(document: Mapping[str, Any], prefix: str) -> OnPrem | None:
    """Return the machines that a cluster file lists; None if a provider starts them."""
    provider, auth = document["provider"], document.get("auth") or {}
    if provider.get("type") != "local" or "head_ip" not in provider:
        return None
    return OnPrem(
        name=str(document["cluster_name"]),
        head=str(provider.get("external_head_ip") or provider["head_ip"]),
        workers=tuple(map(str, provider["worker_ips"])),
        user=str(auth["ssh_user"]),
        key=auth.get("ssh_private_key"),
        proxy=auth.get("ssh_proxy_command"),
        is_outside="external_head_ip" in provider,
        prefix=prefix,
    )


def require_reachable(machines: OnPrem) -> None:
    """Check that every machine can be logged in to; ``ray up`` would try again and again for minutes.

    Raises:
        UserError: A program is missing here.
        OrchestratorError: A machine does not answer, or refuses.
    """
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise UserError(f"{program} is not installed on this machine, and `ray up` needs it. Install it.")
    answers = _on_all(
        lambda machine: _run(machines.ssh(machine, "command -v rsync")), (machines.head, *machines.workers)
    )
    faults = [
        f"{machine}: {'rsync is not installed' if done.returncode != _NO_CONNECTION else _last_line(done.stderr)}"
        for machine, done in answers.items()
        if done.returncode
    ]
    if faults:
        raise OrchestratorError(
            f"Not all machines can be used. {'; '.join(faults)}. Nothing was started. Try it yourself: "
            f"{shlex.join(machines.ssh(next(m for m in answers if answers[m].returncode), 'hostname'))}"
        )


def list_running(machines: OnPrem) -> list[str]:
    """Return the drivers that run on the head; none if it has not been set up."""
    done = _run(machines.ssh(machines.head, f"{machines.prefix}python - running"), on_node_source())
    return done.stdout.splitlines() if done.returncode == 0 else []


def render_down(machines: OnPrem) -> list[str]:
    """Return the commands that stop the machines, as text to show."""
    source = shlex.quote(str(Path(on_node.__file__)))
    return [f"{shlex.join(machines.ssh(machine, command))} < {source}" for machine, command in _stops(machines).items()]


def stop(machines: OnPrem, say: Callable[[str], None]) -> None:
    """End sweeps and Ray on all machines, the head first: while it is alive, it starts lost workers again.

    Args:
        machines: Where.
        say: Called with what each machine answers.

    Raises:
        OrchestratorError: A machine does not answer, or something on it could not be stopped.
    """
    stops, source, faults = _stops(machines), on_node_source(), []

    def stop_on(machine: str) -> subprocess.CompletedProcess[str]:
        return _run(machines.ssh(machine, stops[machine]), source)

    for group in ((machines.head,), machines.workers):
        for machine, done in _on_all(stop_on, group).items():
            if done.returncode == _NO_CONNECTION:
                faults.append(f"{machine} does not answer ({_last_line(done.stderr)})")
            elif done.returncode == _NOT_FOUND:
                say(f"{machine}: not set up, so nothing was stopped")
            elif done.returncode:
                faults.append(f"{machine}: {_last_line(done.stdout) or _last_line(done.stderr)}")
            else:
                say(f"{machine}: {_last_line(done.stdout)}")
    # What Ray notes here about the machines would make it believe that they still run.
    local_state_file(machines.name).unlink(missing_ok=True)
    if faults:
        raise OrchestratorError(f"Not everything was stopped. {'; '.join(faults)}. Try again with the same command.")


def on_node_source() -> str:
    """Return the text of the module that is run on the nodes."""
    return Path(on_node.__file__).read_text(encoding="utf-8")


def _stops(machines: OnPrem) -> dict[str, str]:
    command = f"{machines.prefix}python - stop {shlex.quote(machines.name)}"
    return dict.fromkeys((machines.head, *machines.workers), command)


def _run(words: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, input=text, capture_output=True, text=True, errors="replace", check=False)


def _on_all(
    work: Callable[[str], subprocess.CompletedProcess[str]], machines: Sequence[str]
) -> dict[str, subprocess.CompletedProcess[str]]:
    with ThreadPoolExecutor(max(1, len(machines))) as pool:
        return dict(zip(machines, pool.map(work, machines), strict=True))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output").rstrip(".")
