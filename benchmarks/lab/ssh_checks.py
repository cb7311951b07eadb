"""Machines of one's own over SSH: the commands of docs/cluster.md, typed on a machine outside the cluster."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.lab.checks import (
    LONG_SWEEP,
    SWEEP,
    find_faults,
    find_left,
    list_sweeps,
    num_epochs,
    read_state,
    start_services,
    write_environment,
)
from benchmarks.lab.world import HOME, World, copy_checkout, wait_until

CONFIG = "cluster/on-prem.yaml"
STORAGE = "--storage s3://bucket/checkpoints"
URL = "--address http://127.0.0.1:8265"


class Cluster:
    """A head and a worker with sshd, and the user's checkout and home outside."""

    def __init__(self, world: World) -> None:
        self.home = world.folder / "homes" / "outside"
        self.checkout = world.folder / "checkout"
        copy_checkout(self.checkout)
        world.use_home(self.home)
        self._venv = world.venv
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        key = self.home / ".ssh" / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.machines = []
        for name in ("n1", "n2"):
            home = world.folder / "homes" / name
            (home / ".ssh").mkdir(parents=True, mode=0o700)
            (home / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
            # The libraries are there already, so that `node.sh setup` needs no network.
            (home / "spml").mkdir()
            (home / "spml" / ".venv").symlink_to(world.venv)
            machine = world.add(home)
            world.start_sshd(machine)
            self.machines.append(machine)
        self._services = start_services(world)
        write_environment(self._services, self.home)
        self._fill_in()
        self._forwarding: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Stop what was started outside the machines."""
        if self._forwarding is not None:
            os.killpg(self._forwarding.pid, signal.SIGKILL)
            self._forwarding.wait()
        self._services.stop()

    def unreachable(self) -> list[str]:
        """Start a cluster of which one machine does not answer: it is named, and nothing starts."""
        path = self.checkout / "cluster" / "away.yaml"
        path.write_text((self.checkout / CONFIG).read_text().replace("10.77.0.12", "10.77.0.19"))
        code, said = self.type("cluster up --config cluster/away.yaml --yes", 300)
        return [] if code == 1 and "10.77.0.19: ssh:" in said and not self._left() else [f"{code}: {said[-500:]}"]

    def up(self) -> list[str]:
        """Start the cluster: both machines come."""
        code, said = self.type(f"cluster up --config {CONFIG} --yes", 600)
        if code or "has joined: 1 of 1 worker" not in said:
            return [f"{code}: {said[-1200:]}"]
        self._forward()
        return []

    def doctor(self) -> list[str]:
        """Ask every node whether it can train on digits: each prepares them."""
        code, said = self.type(f"doctor {URL} --space digits {STORAGE}", 700)
        return [] if code == 0 and "n1" in said and "n2" in said else [f"{code}: {said[-800:]}"]

    def sweep(self) -> list[str]:
        """Submit a sweep over both machines, with checkpoints on S3 and runs in MLflow, and follow it."""
        code, said = self.type(f"submit {URL} --follow {SWEEP} {STORAGE}", 700)
        return [f"{code}: {said[-800:]}"] if code else find_faults(self._latest(), 4, hosts=2)

    def promote(self) -> list[str]:
        """Promote its winner over Ray Train, with a worker on each machine."""
        code, said = self.type(f"submit {URL} --follow promote --rule best-score --seeds 1 --workers 2", 900)
        # With one seed there is nothing to be decided, which exits with 1 too.
        return [] if "test:" in said else [f"{code}: {said[-800:]}"]

    def up_again(self) -> list[str]:
        """Start the cluster again while a sweep runs: that is refused, and the sweep goes on."""
        known = len(list_sweeps(self.machines[0].home))
        self.type(f"submit {URL} {LONG_SWEEP} {STORAGE}", 180)
        wait_until("a sweep", lambda: len(list_sweeps(self.machines[0].home)) > known, 240)
        wait_until("its first epochs", lambda: num_epochs(self._latest()) >= 2, 240)
        code, said = self.type(f"cluster up --config {CONFIG} --yes", 180)
        wrong = [] if code == 2 and "On the head of this cluster runs: sweep digits" in said else [f"{code}: {said}"]
        count = num_epochs(self._latest())
        wait_until("further epochs", lambda: num_epochs(self._latest()) > count, 180)
        return wrong

    def down(self) -> list[str]:
        """Stop the cluster under a running sweep: it is interrupted tidily, and nothing is left anywhere."""
        code, said = self.type(f"cluster down --config {CONFIG} --yes", 300)
        state = read_state(self._latest()).driver_state
        wrong = [] if code == 0 else [f"{code}: {said[-500:]}"]
        return wrong + ([] if state == "INTERRUPTED" else [f"the journal says {state}"]) + self._left()

    def down_idle(self) -> list[str]:
        """Stop the cluster: nothing is left on any machine."""
        code, said = self.type(f"cluster down --config {CONFIG} --yes", 300)
        return ([] if code == 0 else [f"{code}: {said[-500:]}"]) + self._left()

    def down_again(self) -> list[str]:
        """Stop a cluster that does not run."""
        code, said = self.type(f"cluster down --config {CONFIG} --yes", 300)
        return [] if code == 0 and "stopped 0 sweeps" in said else [f"{code}: {said[-500:]}"]

    def up_after_down(self) -> list[str]:
        """Start it again after that: both machines come."""
        wrong = self.up()
        code, said = self.type(f"cluster status --config {CONFIG}", 300)
        return wrong + ([] if code == 0 and "/2.0 CPU" in said else [f"{code}: {said[-500:]}"])

    def type(self, words: str, limit_s: float) -> tuple[int, str]:
        """Run a command of the orchestrator outside the cluster, in the checkout; return its exit code and output."""
        command = [sys.executable, "-m", "orchestrator", *shlex.split(words)]
        try:
            done = subprocess.run(
                command,
                cwd=self.checkout,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stdout or ""
            return 124, f"no end within {limit_s:.0f} s: {said if isinstance(said, str) else said.decode()}"
        return done.returncode, done.stdout

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            "HOME": HOME,
            "PATH": path,
            "PYTHONPATH": str(self.checkout),
            "LANG": "C.UTF-8",
            "ORCHESTRATOR_HOME": str(self.home / "orchestrator"),
            # Ray notes there which clusters it has started.
            "RAY_TMPDIR": str(self.home / "tmp"),
            **self._services.client_environment,
        }

    def _fill_in(self) -> None:
        path = self.checkout / CONFIG
        text = path.read_text().replace("192.0.2.10", self.machines[0].address)
        text = text.replace("[192.0.2.11, 192.0.2.12]", f"[{self.machines[1].address}]")
        text = re.sub(r"(?m)^(min|max)_workers: 2", r"\1_workers: 1", text.replace("ssh_user: ray", "ssh_user: root"))
        # One CPU each, so that a sweep needs both.
        path.write_text(text.replace("ray start --", "ray start --num-cpus=1 --"))

    def _forward(self) -> None:
        if self._forwarding is not None:
            os.killpg(self._forwarding.pid, signal.SIGKILL)
        self._forwarding = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "dashboard", CONFIG],
            cwd=self.checkout,
            env=self._environment() | {"RAY_AUTH_MODE": "token"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        time.sleep(5)

    def _latest(self) -> Path:
        return list_sweeps(self.machines[0].home)[-1]

    def _left(self) -> list[str]:
        return find_left(self.machines)[:4]


PARTS: dict[str, list[str]] = {
    "ssh": ["unreachable", "up", "doctor", "sweep", "down_idle"],
    "ssh-stops": ["up", "up_again", "down", "down_again"],
    "ssh-again": ["up", "sweep", "down_idle", "up_after_down"],
    "ssh-promote": ["up", "sweep", "promote", "down_idle"],
}
