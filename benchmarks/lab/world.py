"""A handful of machines in namespaces of this one: each with a network address, processes, a host name and disks of its
own. Nothing that they do reaches the outside, and all of it ends with the process that entered the world.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTSIDE = "10.77.0.1"
"""The address of the world itself: of the user's own machine, and of MLflow and S3."""
HOME = "/mnt/home"
"""The home of root on every machine."""
CHECKOUT = f"{HOME}/spml"
"""Where the machines have the checkout."""
_NEEDED = {
    "slurmctld": "slurm-wlm",
    "munged": "munge",
    "sshd": "openssh-server",
    "rsync": "rsync",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "git": "git",
}
_INSIDE = "SPML_LAB"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Private disks of a machine: path -> most of them may take.
_PRIVATE = {"/tmp": "4g", "/run": "64m", "/dev/shm": "1g"}


def find_obstacle() -> str | None:
    """Return why the lab cannot be built on this machine, or None."""
    if os.geteuid() != 0:
        return "the lab needs root, for namespaces"
    missing = {package for program, package in _NEEDED.items() if shutil.which(program, path=_PATH) is None}
    if missing:
        return f"Debian packages are missing: apt-get install {' '.join(sorted(missing))}"
    if importlib.util.find_spec("moto") is None:
        return "the developers' packages are missing: make setup"
    try_it = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "this machine allows no namespaces" if try_it.returncode else None


def is_inside() -> bool:
    """Return whether this process is in a world of its own."""
    return _INSIDE in os.environ


def enter(module: str, words: Sequence[str]) -> int:
    """Run a module again in a world of its own; return its exit code."""
    space = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    environment = {**os.environ, _INSIDE: "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    inside = subprocess.Popen([*space, sys.executable, "-m", module, *words], env=environment)
    # With its first process, everything in the world ends; unshare itself ignores a polite signal.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return inside.wait()
    finally:
        inside.kill()


@dataclass(frozen=True)
class Machine:
    """One machine.

    Attributes:
        name: Its host name.
        address: Its address.
        pid: The process that keeps its namespaces.
        home: Its home, as seen from outside.
    """

    name: str
    address: str
    pid: int
    home: Path

    def popen(
        self, command: str, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a shell command there, as if typed after a login."""
        words = ["nsenter", "--target", str(self.pid), "--all", "bash", "-c", f"cd ~ && {command}"]
        clean = {"HOME": HOME, "PATH": _PATH, "USER": "root", "LANG": "C.UTF-8", **(environment or {})}
        out = subprocess.PIPE if log is None else log.open("a")
        return subprocess.Popen(
            words, env=clean, stdout=out, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
        )

    def run(
        self, command: str, environment: Mapping[str, str] | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command there and return its output, stderr included."""
        process = self.popen(command, environment)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out = f"(no end within {timeout_s:.0f} s)"
        return subprocess.CompletedProcess(command, process.returncode or 0 if process.returncode != -9 else 124, out)

    def processes(self) -> list[str]:
        """Return the command lines of what runs there, but for the machine's own."""
        listed = self.run("ps -eo pid=,ppid=,stat=,args=").stdout.splitlines()
        # The second sleep is what `ray dashboard` runs on the head while the user forwards its port.
        own = (
            "ps -eo",
            "sleep 86400",
            "bash -c",
            "sleep 1000",
            "sshd",
            "munged",
            "slurmd",
            "slurmctld",
            ": slurmscriptd",
        )
        return [
            line
            for line in listed
            if line.split(None, 3)[2][0] != "Z" and not line.split(None, 3)[3].startswith(own) and "/sshd" not in line
        ]


class World:
    """The network, the disks that all machines see, and the machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: list[Machine] = []
        venv = Path(sys.prefix).resolve()
        for part in ("upper", "work", "shared", "homes"):
            (folder / part).mkdir()
        # A copy of the virtual environment's disk that is dropped at the end, for `node.sh setup` to write to.
        layers = f"lowerdir={venv},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        _do(f"mount -t overlay overlay -o {shlex.quote(layers)} {shlex.quote(str(venv))}")
        # As after that setup, the machines run the checkout that is copied to them.
        for link in venv.glob("lib/python*/site-packages/_editable_impl_spml_orchestrator.pth"):
            link.write_text(f"{CHECKOUT}\n")
        _do("mount --make-rprivate /")
        _do("ip link set lo up && ip link add br0 type bridge && ip link set br0 up")
        _do(f"ip address add {OUTSIDE}/24 dev br0")
        hosts = folder / "hosts"
        names = "".join(f"10.77.0.{number} n{number - 10}\n" for number in range(11, 20))
        hosts.write_text(f"127.0.0.1 localhost\n{OUTSIDE} outside\n{names}")
        _do(f"mount --bind {hosts} /etc/hosts")
        # Not over /root, under which the Python of this machine may be.
        _do(f"mount -t tmpfs tmpfs {Path(HOME).parent} && mkdir {HOME}")
        users = folder / "passwd"
        users.write_text(re.sub(r"(?m)^(root:.*):[^:]*:([^:]*)$", rf"\1:{HOME}:\2", Path("/etc/passwd").read_text()))
        _do(f"mount --bind {users} /etc/passwd")

    @property
    def venv(self) -> Path:
        """The virtual environment, writable in here."""
        return Path(sys.prefix).resolve()

    def use_home(self, folder: Path) -> None:
        """Make a folder root's home outside the machines too: ssh looks for keys there, whatever HOME says."""
        folder.mkdir(parents=True)
        _do(f"mount --bind {folder} {HOME}")

    def add(self, home: Path | None = None) -> Machine:
        """Start a machine; its home is its own unless one is given."""
        number = len(self.machines) + 1
        name, address = f"n{number}", f"10.77.0.{number + 10}"
        home = home or self.folder / "homes" / name
        home.mkdir(exist_ok=True)
        space = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        # Its first process has to reap orphans, as any init.
        init = f"hostname {name}; trap : CHLD; while :; do sleep 1000 & wait; done"
        holder = subprocess.Popen([*space, "bash", "-c", init], stdout=subprocess.DEVNULL)
        pid = _wait_for_child(holder.pid)
        _do(f"ip link add veth{number} type veth peer name eth0 netns {pid}")
        _do(f"ip link set veth{number} master br0 up")
        machine = Machine(name, address, pid, home)
        disks = " && ".join(f"mount -t tmpfs -o size={size},mode=1777 tmpfs {path}" for path, size in _PRIVATE.items())
        network = f"ip link set lo up && ip address add {address}/24 dev eth0 && ip link set eth0 up"
        done = machine.run(
            f"mount --bind {home} {HOME} && {disks} && {network} && mkdir -p /run/sshd /run/munge && hostname"
        )
        if done.returncode or done.stdout.split()[-1:] != [name]:
            raise RuntimeError(f"{name} does not start: {done.stdout}")
        self.machines.append(machine)
        return machine

    def start_sshd(self, machine: Machine) -> None:
        """Let those log in whose key is in the machine's ``authorized_keys``."""
        options = (
            f"-o PermitRootLogin=yes -o UsePAM=no -o StrictModes=no -o AuthorizedKeysFile={HOME}/.ssh/authorized_keys"
        )
        done = machine.run(f"/usr/sbin/sshd {options}")
        if done.returncode:
            raise RuntimeError(f"sshd does not start: {done.stdout}")

    def stop(self) -> None:
        """End all machines."""
        for machine in self.machines:
            subprocess.run(["kill", "-KILL", str(machine.pid)], check=False)
        self.machines.clear()


def copy_checkout(target: Path) -> None:
    """Copy what git would commit, with its history, so that results know their commit."""
    _do(f"git -c safe.directory='*' clone --quiet --shared {shlex.quote(str(ROOT))} {shlex.quote(str(target))}")
    _do(
        f"cd {shlex.quote(str(ROOT))} && git -c safe.directory='*' ls-files -z --cached --others --exclude-standard"
        f" | rsync --archive --from0 --files-from=- --ignore-missing-args ./ {shlex.quote(str(target))}/"
    )


def wait_until(what: str, is_so: object, limit_s: float = 120.0) -> None:
    """Wait until a function returns something true.

    Raises:
        RuntimeError: It does not within the limit.
    """
    assert callable(is_so)
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.5)


def _do(command: str) -> None:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def _wait_for_child(pid: int) -> int:
    found: list[int] = []

    def look() -> bool:
        found[:] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return bool(found)

    wait_until("a machine's first process", look, 10)
    time.sleep(0.3)  # until it has its own /proc
    return found[0]
