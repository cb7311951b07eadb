"""What both kinds of cluster are checked with: one small sweep, its journal, and the services it needs."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.world import HOME, OUTSIDE, Machine, World
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.sweep_folder.state import SweepState
from tests.kit import mlflow_service
from tests.kit.mlflow_service import MlflowService

SETTINGS = "--set method.warmup_epochs=1 --set data.num_train=120 --set data.num_val=40 --set data.num_test=40"
SWEEP = f"sweep digits --trials 4 --epochs 4 --startup-trials 4 {SETTINGS}"
LONG_SWEEP = f"sweep digits --trials 4 --epochs 60 --startup-trials 4 {SETTINGS}"
COLOUR = re.compile(r"\x1b\[")


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        part, name: What was checked.
        problem: What was wrong; empty if nothing was.
        seconds: How long it took.
        day: When it was done.
    """

    part: str
    name: str
    problem: str
    seconds: float
    day: str


def run_check(part: str, name: str, check: Callable[[], list[str]]) -> Check:
    """Run a check, which returns what is wrong; an exception is wrong too."""
    started = time.monotonic()
    try:
        problems = check()
    except Exception as error:
        problems = [f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"]
    # Results name no path of this machine.
    here = str(Path(sys.prefix).resolve())
    problems = [problem.replace(here, ".venv").replace(HOME, "~") for problem in problems]
    seconds = round(time.monotonic() - started, 1)
    print(f"{'WRONG' if problems else 'ok   '} {name} ({seconds:.0f} s) {'; '.join(problems)}", flush=True)
    return Check(part, name, "; ".join(problems), seconds, time.strftime("%Y-%m-%d"))


def start_services(world: World) -> MlflowService:
    """Start MLflow on PostgreSQL, and S3 with an empty bucket, outside the machines."""
    mlflow_service.HOST = OUTSIDE
    service = MlflowService(world.folder / "services")
    service.start()
    return service


def write_environment(service: MlflowService, home: Path) -> None:
    """Write the file from which the nodes get addresses and credentials."""
    variables = {
        **service.client_environment,
        **mlflow_service.STORAGE,
        "AWS_ENDPOINT_URL": f"http://{OUTSIDE}:{service.storage_port}",
        # As many threads as a trial has CPUs.
        "OMP_NUM_THREADS": "1",
    }
    file = home / ".orchestrator.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    file.chmod(0o600)


def list_sweeps(home: Path) -> list[Path]:
    """Return the folders of the sweeps in an ORCHESTRATOR_HOME, the latest last."""
    folder = home / "orchestrator" / "sweeps"
    found = [path for path in folder.iterdir() if (path / JOURNAL_FILE).is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_ctime)


def read_state(sweep: Path) -> SweepState:
    """Return what a sweep's journal says."""
    return replay(sweep / JOURNAL_FILE)


def num_epochs(sweep: Path) -> int:
    """Return how many epochs a sweep has reported."""
    return sum(isinstance(event, EpochReported) for event in follow(sweep / JOURNAL_FILE)[0])


def find_faults(sweep: Path, num_trials: int, hosts: int = 1) -> list[str]:
    """Return what is wrong with a finished sweep: trials that failed, epochs lost or doubled, nodes without a trial."""
    state, events = read_state(sweep), follow(sweep / JOURNAL_FILE)[0]
    faults = []
    states = Counter(str(record.state) for record in state.records.values())
    if state.driver_state != "FINISHED" or len(state.records) != num_trials or states["FAILED"]:
        faults.append(f"{sweep.name} is {state.driver_state} with {dict(states)}")
    reported = Counter((event.trial, event.epoch) for event in events if isinstance(event, EpochReported))
    if reported and max(reported.values()) > 1:
        faults.append(f"{sweep.name} counts epochs twice")
    for record in state.records.values():
        if sorted(record.metrics) != list(range(1, record.last_epoch + 1)):
            faults.append(f"{sweep.name} has lost epochs of trial {record.trial}")
    used = {event.host for event in events if isinstance(event, EpochReported) and event.host}
    if len(used) < hosts:
        faults.append(f"{sweep.name} ran on {sorted(used)} only")
    return faults


def find_left(machines: list[Machine]) -> list[str]:
    """Return the processes that are left on the machines."""
    return [
        f"{machine.name} still runs {line.split(None, 3)[3][:80]}"
        for machine in machines
        for line in machine.processes()
    ]
