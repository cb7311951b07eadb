from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.sweep_folder.events import SweepExtended
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, follow
from orchestrator.sweep_folder.lease import LEASE_FILE, Lease, find_holder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def write_lease(folder: Path, host: str, pid: int, pid_started: float, renewed: float = 0.0) -> None:
    (folder / LEASE_FILE).write_text(
        json.dumps({"host": host, "pid": pid, "pid_started": pid_started, "renewed": renewed})
    )


def test_a_second_driver_is_told_who_holds_it(tmp_path: Path) -> None:
    with Lease(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()}\\."):
            Lease(tmp_path)
        holder = find_holder(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert find_holder(tmp_path) is None
    Lease(tmp_path).release()


def test_a_dead_driver_on_this_host_frees_it(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    write_lease(tmp_path, socket.gethostname(), sleeper.pid, psutil.Process(sleeper.pid).create_time())
    with pytest.raises(UserError, match=str(sleeper.pid)):
        Lease(tmp_path)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    Lease(tmp_path)  # a zombie is dead
    write_lease(tmp_path, socket.gethostname(), sleeper.pid, psutil.Process(sleeper.pid).create_time())
    sleeper.wait()
    Lease(tmp_path)


def test_a_later_process_with_the_same_pid_is_another(tmp_path: Path) -> None:
    write_lease(tmp_path, socket.gethostname(), os.getpid(), psutil.Process().create_time() - 1000)
    assert find_holder(tmp_path) is None
    Lease(tmp_path)


class Now:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_driver_on_another_host_is_believed_to_live_for_a_minute_after_its_last_renewal(tmp_path: Path) -> None:
    clock = Now()
    write_lease(tmp_path, "elsewhere", 1, 0.0, renewed=1000.0)
    for clock.s in (1000.0, 1059.9):
        with pytest.raises(UserError, match="run by process 1 on elsewhere.* --steal-lease"):
            Lease(tmp_path, clock=clock)
    clock.s = 1060.0
    Lease(tmp_path, clock=clock)
    assert json.loads((tmp_path / LEASE_FILE).read_text())["renewed"] == 1060.0


def test_it_can_be_taken_by_force_from_another_host_but_not_from_a_process_here(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    write_lease(tmp_path, socket.gethostname(), sleeper.pid, psutil.Process(sleeper.pid).create_time())
    with pytest.raises(UserError, match="or stop that process first"):
        Lease(tmp_path, steal=True)
    write_lease(tmp_path, "elsewhere", 1, 0.0, renewed=1000.0)
    Lease(tmp_path, steal=True, clock=Now())
    assert find_holder(tmp_path) is not None


def test_whoever_lost_it_writes_nothing_more_to_the_journal(tmp_path: Path) -> None:
    clock = Now()
    lease = Lease(tmp_path, clock=clock)
    with Journal.open(tmp_path / JOURNAL_FILE, lease) as journal:
        journal.append(SweepExtended(3))
        write_lease(tmp_path, "elsewhere", 7, 0.0, renewed=1070.0)
        clock.s = 1071.0  # as after a long sleep: it was not renewed for longer than it ever goes without
        with pytest.raises(OrchestratorError, match="process 7 on elsewhere has taken it"):
            journal.append(SweepExtended(4))
        lease.release()
    assert json.loads((tmp_path / LEASE_FILE).read_text())["host"] == "elsewhere"
    assert len(follow(tmp_path / JOURNAL_FILE)[0]) == 1


def test_one_that_was_taken_and_given_back_meanwhile_is_lost_as_well(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    (tmp_path / LEASE_FILE).write_text("")
    lease.renew()
    with pytest.raises(OrchestratorError, match="since released it"):
        lease.require()


def test_a_driver_renews_it_until_it_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.sweep_folder.lease import Lease\n"
        "with Lease(Path(sys.argv[1]), renew_s=0.05): time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        seen = wait_for_renewals(tmp_path / LEASE_FILE, 3)
        assert seen == sorted(seen)
        with pytest.raises(UserError, match=f"process {driver.pid}"):
            Lease(tmp_path)
    finally:
        driver.kill()
        driver.wait()
    with Lease(tmp_path):
        assert (tmp_path / LEASE_FILE).stat().st_size == 512


def wait_for_renewals(path: Path, num: int) -> list[float]:
    """Return the times at which it was seen to be renewed."""
    seen: list[float] = []
    deadline = time.monotonic() + 30
    while len(seen) < num and time.monotonic() < deadline:
        time.sleep(0.02)
        renewed = json.loads(path.read_text())["renewed"] if path.exists() and path.stat().st_size else None
        if renewed is not None and renewed not in seen:
            seen.append(renewed)
    assert len(seen) == num
    return seen


@pytest.mark.parametrize("torn", ["", "{", '{"host": "h"}', "[]"])
def test_a_lease_cut_short_by_a_kill_holds_nothing(tmp_path: Path, torn: str) -> None:
    (tmp_path / LEASE_FILE).write_text(torn)
    Lease(tmp_path)
