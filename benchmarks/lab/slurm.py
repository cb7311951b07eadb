"""Debian's Slurm on two machines that share their homes and the checkout."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from benchmarks.lab.world import CHECKOUT, HOME, Machine, World, copy_checkout, wait_until

_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
_CONFIG = """
ClusterName=lab
SlurmctldHost=n1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
JobRequeue=1
NodeName=n[1-2] CPUs=4 State=UNKNOWN
PartitionName=lab Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Slurm:
    """The controller on the first machine, which users log in to as well, and a daemon on both."""

    def __init__(self, world: World) -> None:
        self.folder = world.folder / "slurm"
        self.home = world.folder / "shared"
        (self.folder / "state").mkdir(parents=True)
        self._config = self.folder / "slurm.conf"
        self._config.write_text(_CONFIG.format(folder=self.folder))
        self.environment = {"SLURM_CONF": str(self._config)}
        key = self.folder / "munge.key"
        key.write_bytes(b"lab" * 400)
        key.chmod(0o600)
        self.machines = [world.add(self.home) for _ in range(2)]
        self.login = self.machines[0]
        for machine in self.machines:
            socket = f"--key-file={key} --log-file=/run/munge/log --pid-file=/run/munge/pid --seed-file=/run/munge/seed"
            self._start(machine, f"munged --force {socket}")
        self._start(self.login, "slurmctld")
        for machine in self.machines:
            self.start_slurmd(machine)
        wait_until("Slurm's nodes", lambda: self.run("sinfo -h -o '%T %D'").strip() == "idle 2", 60)

    def start_slurmd(self, machine: Machine) -> None:
        """Start the daemon of a node."""
        self._start(machine, f"slurmd -N {machine.name}")

    def copy_checkout(self, venv: Path) -> None:
        """Put the checkout where both machines see it, with sizes that fit: 2 nodes with a CPU for trials each."""
        target = self.home / "spml"
        copy_checkout(target)
        (target / ".venv").symlink_to(venv)
        script = target / "cluster" / "slurm.sh"
        text = script.read_text()
        text = text.replace("--cpus-per-task=16", "--cpus-per-task=1").replace("#SBATCH --gpus-per-node=4\n", "")
        script.write_text(text.replace("#SBATCH --exclusive\n", ""))

    def run(self, command: str, timeout_s: float = 300) -> str:
        """Run a command on the login node, in the checkout, and return its output."""
        folder = CHECKOUT if (self.home / "spml").exists() else HOME
        return self.login.run(f"cd {folder} && {command}", self.environment, timeout_s).stdout

    def sbatch(self, words: str, options: str = "") -> int:
        """Submit a command as the documentation says; return the job's number."""
        said = self.run(f"sbatch {options} cluster/slurm.sh {words}")
        found = re.search(r"Submitted batch job (\d+)", said)
        if found is None:
            raise RuntimeError(f"sbatch {words}: {said}")
        return int(found[1])

    def state(self, job: int) -> dict[str, str]:
        """Return what Slurm says of a job."""
        return dict(word.split("=", 1) for word in self.run(f"scontrol show job {job}").split() if "=" in word)

    def minutes(self, job: int) -> int:
        """Return for how many whole minutes a job has run."""
        hours, minutes, _ = self.state(job)["RunTime"].split(":")
        return 60 * int(hours) + int(minutes)

    def wait(self, job: int, limit_s: float = 600) -> dict[str, str]:
        """Wait for the end of a job and return what Slurm says of it."""
        wait_until(f"job {job}", lambda: self.state(job).get("JobState") in _ENDED, limit_s)
        return self.state(job)

    def log(self, job: int) -> str:
        """Return what a job has printed."""
        file = self.home / "spml" / f"spml-{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _start(self, machine: Machine, command: str) -> None:
        done = machine.run(command, self.environment)
        if done.returncode:
            raise RuntimeError(f"{shlex.split(command)[0]} on {machine.name}: {done.stdout}")
