"""What a user of Slurm does, and what happens to jobs: the commands of docs/cluster.md on two nodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.lab.checks import (
    COLOUR,
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
from benchmarks.lab.slurm import Slurm
from benchmarks.lab.world import World, wait_until

STORAGE = "--storage s3://bucket/checkpoints"
# Ray's drain used to hold the nodes for half a minute.
_RELEASE_S = 15


class Cluster:
    """Slurm on two machines, with MLflow and S3 outside."""

    def __init__(self, world: World) -> None:
        self.slurm = Slurm(world)
        self.slurm.copy_checkout(world.venv)
        self._services = start_services(world)
        write_environment(self._services, self.slurm.home)

    def close(self) -> None:
        """Stop what was started outside the machines."""
        self._services.stop()

    def set_up(self) -> list[str]:
        """Run ``bash cluster/node.sh setup`` on the login node."""
        said = self.slurm.run("bash cluster/node.sh setup && bash cluster/node.sh orchestrator --version", 200)
        return [] if re.search(r"\d+\.\d+", said.splitlines()[-1]) else [said[-500:]]

    def sweep(self) -> list[str]:
        """Sweep over both nodes, with checkpoints on S3 and runs in MLflow."""
        job = self.slurm.sbatch(f"{SWEEP} {STORAGE}")
        ended, log = self.slurm.wait(job), self.slurm.log(job)
        if ended["JobState"] != "COMPLETED":
            return [f"{ended['JobState']} {ended['ExitCode']}: {log[-800:]}"]
        sweep = self._sweep_of(job)
        wrong = find_faults(sweep, 4, hosts=2) + (["colour codes in the log"] if COLOUR.search(log) else [])
        said = self.slurm.run(f"bash cluster/node.sh orchestrator status job-{job}")
        if "FINISHED" not in said.upper():
            wrong.append(f"status on the login node says {said[-300:]}")
        return wrong + self._look_at_release(sweep, ended) + self._nothing_left()

    def two_jobs_on_one_node(self) -> list[str]:
        """Run two jobs at once on the same node."""
        where = "--nodes=1 --nodelist=n1"
        jobs = [self.slurm.sbatch(f"{SWEEP} {STORAGE}", where) for _ in range(2)]
        wrong = []
        for job in jobs:
            state = self.slurm.wait(job)["JobState"]
            wrong += find_faults(self._sweep_of(job), 4) if state == "COMPLETED" else [f"{state}: {self._tail(job)}"]
        return wrong + self._nothing_left()

    def time_limit(self) -> list[str]:
        """Tell a sweep to stop before the time limit, and continue it in the next job."""
        job = self._start_long("--signal=B:TERM@30")
        # Only now, because a busy machine takes minutes for the first epochs.
        limit = self.slurm.minutes(job) + 1
        self.slurm.run(f"scontrol update JobId={job} TimeLimit={limit}")
        ended = self.slurm.wait(job)
        wrong = [] if ended["ExitCode"] == "130:0" else [f"{ended['JobState']} {ended['ExitCode']}: {self._tail(job)}"]
        wrong += self._look_interrupted(job)
        after = self.slurm.sbatch(f"resume job-{job}")
        self._wait_for_epochs(job, num_epochs(self._sweep_of(job)) + 2, by=after)
        self.slurm.run(f"scancel {after}")
        self.slurm.wait(after)
        return wrong + self._nothing_left()

    def cancel(self) -> list[str]:
        """Cancel a job: its sweep is interrupted, and nothing is left."""
        job = self._start_long()
        self.slurm.run(f"scancel {job}")
        state = self.slurm.wait(job)["JobState"]
        return ([] if state == "CANCELLED" else [state]) + self._look_interrupted(job) + self._nothing_left()

    def requeue(self) -> list[str]:
        """Requeue a running job: it continues its own sweep and adds to its log."""
        return self._start_again(lambda job: self.slurm.run(f"scontrol requeue {job}"))

    def killed_slurmd(self) -> list[str]:
        """Kill Slurm's daemon on the second node, with everything on it, and start it again."""

        def kill(job: int) -> None:
            second = self.slurm.machines[1]
            second.run("pkill -KILL slurmd; pkill -KILL slurmstepd; pkill -KILL -f raylet; pkill -KILL -f ray::")
            wait_until("the requeue", lambda: self.slurm.state(job).get("Restarts") == "1", 300)
            self.slurm.start_slurmd(second)

        return self._start_again(kill)

    def killed_raylet(self) -> list[str]:
        """Kill Ray on the second node: the sweep goes on."""
        job = self.slurm.sbatch(f"{SWEEP.replace('--epochs 4', '--epochs 12')} {STORAGE}")
        self._wait_for_epochs(job, 2)
        self.slurm.machines[1].run("pkill -KILL -f raylet/raylet")
        state = self.slurm.wait(job)["JobState"]
        return find_faults(self._sweep_of(job), 4) if state == "COMPLETED" else [f"{state}: {self._tail(job)}"]

    def lost_head(self) -> list[str]:
        """Kill Ray's head: the job ends soon and says why."""
        job = self._start_long()
        self.slurm.machines[0].run("pkill -KILL gcs_server")
        ended = self.slurm.wait(job, 90)
        wrong = [] if ended["JobState"] == "FAILED" else [ended["JobState"]]
        return wrong + ([] if "resume" in self.slurm.log(job) else ["the log does not say how to continue"])

    def _start_again(self, interrupt: Callable[[int], object]) -> list[str]:
        job = self._start_long()
        known = num_epochs(self._sweep_of(job))
        interrupt(job)
        wait_until("the requeue", lambda: self.slurm.state(job).get("Restarts") == "1", 300)
        # Slurm waits two minutes before it starts a job again.
        self.slurm.run(f"scontrol update JobId={job} StartTime=now")
        self._wait_for_epochs(job, known + 3)
        wrong = [] if len(self._named(job)) == 1 else [f"the job has {len(self._named(job))} sweeps"]
        if "digits" not in self.slurm.log(job):
            wrong.append("the log of the first start is gone")
        self.slurm.run(f"scancel {job}")
        self.slurm.wait(job)
        return wrong + self._nothing_left()

    def _start_long(self, options: str = "") -> int:
        job = self.slurm.sbatch(f"{LONG_SWEEP} {STORAGE}", options)
        self._wait_for_epochs(job, 2)
        return job

    def _wait_for_epochs(self, job: int, count: int, by: int | None = None) -> None:
        """Wait until the sweep of a job has so many epochs, which it gets from that job or a later one."""
        running = by or job

        def look() -> bool:
            if self.slurm.state(running).get("JobState") in ("FAILED", "CANCELLED", "TIMEOUT"):
                raise RuntimeError(f"job {running} ended: {self._tail(running)}")
            found = self._named(job)
            return bool(found) and num_epochs(found[-1]) >= count

        wait_until(f"{count} epochs of job {job}", look, 600)

    def _named(self, job: int) -> list[Path]:
        return [path for path in list_sweeps(self.slurm.home) if path.name.startswith(f"job-{job}-")]

    def _sweep_of(self, job: int) -> Path:
        found = self._named(job)
        if not found:
            raise RuntimeError(f"job {job} has no sweep: {self._tail(job)}")
        return found[-1]

    def _tail(self, job: int) -> str:
        return " | ".join(self.slurm.log(job).splitlines()[-12:])

    def _look_interrupted(self, job: int) -> list[str]:
        state = read_state(self._sweep_of(job)).driver_state
        return [] if state == "INTERRUPTED" else [f"the journal says {state}"]

    def _look_at_release(self, sweep: Path, ended: dict[str, str]) -> list[str]:
        stopped = read_state(sweep).ended_ms
        end = self.slurm.run(f"date -d {ended['EndTime']} +%s")
        held_s = int(end) - (stopped or 0) / 1000
        return [] if held_s < _RELEASE_S else [f"the nodes were held {held_s:.0f} s after the sweep's end"]

    def _nothing_left(self) -> list[str]:
        try:
            wait_until("an empty machine", lambda: not find_left(self.slurm.machines), 40)
        except RuntimeError:
            return find_left(self.slurm.machines)[:4]
        return []


PARTS: dict[str, list[str]] = {
    "slurm": ["set_up", "sweep", "two_jobs_on_one_node"],
    "slurm-cancel": ["cancel"],
    "slurm-time-limit": ["time_limit"],
    "slurm-requeue": ["requeue"],
    "slurm-slurmd": ["killed_slurmd"],
    "slurm-raylet": ["killed_raylet"],
    "slurm-head": ["lost_head"],
}
