from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.processes import DRIVER_VARIABLE, SWEEP_VARIABLE, end_orphans, kill_own


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ | {SWEEP_VARIABLE: "/sweeps/digits-1"}
    )
    yield process
    process.kill()
    process.wait()


def test_orphans_are_ended_and_gone_afterwards(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sleeper is a child of ours, so ours to keep; what a dead child of ours started is not.
    orphan = start_orphan({SWEEP_VARIABLE: "/sweeps/digits-2", DRIVER_VARIABLE: '{"pid": 7}'})
    assert end_orphans(Path("/sweeps/digits-1")) == 0
    assert end_orphans(Path("/sweeps/digits-3")) == 0
    assert psutil.pid_exists(orphan)
    # While its driver is alive or cannot be seen, it is no orphan: the lease may have been taken by force.
    monkeypatch.setattr("orchestrator.cluster.processes.is_dead", lambda driver: driver != {"pid": 7})
    assert end_orphans(Path("/sweeps/digits-2")) == 0
    monkeypatch.setattr("orchestrator.cluster.processes.is_dead", lambda driver: driver == {"pid": 7})
    assert end_orphans(Path("/sweeps/digits-2")) == 1
    assert has_ended(orphan)
    assert sleeper.poll() is None


def test_own_processes_are_killed_whoever_their_parent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = '{"pid": 7}', '{"pid": 8}'
    monkeypatch.setenv(DRIVER_VARIABLE, ours)
    own = start_orphan({SWEEP_VARIABLE: "/sweeps/digits-4", DRIVER_VARIABLE: ours})
    foreign = start_orphan({SWEEP_VARIABLE: "/sweeps/digits-4", DRIVER_VARIABLE: other})
    try:
        assert kill_own(Path("/sweeps/digits-4"))
        assert has_ended(own)
        assert not kill_own(Path("/sweeps/digits-4"))
        assert psutil.pid_exists(foreign)
    finally:
        psutil.Process(foreign).kill()


def start_orphan(variables: dict[str, str]) -> int:
    """Start a process whose parent has ended; return its id."""
    code = (
        "from subprocess import *; import sys; quiet = dict(stdout=DEVNULL, stderr=DEVNULL); "
        "print(Popen(sys.argv[1:], **quiet).pid)"
    )
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    parent = subprocess.run(
        [sys.executable, "-c", code, *sleep], env=os.environ | variables, capture_output=True, check=True
    )
    return int(parent.stdout)


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
