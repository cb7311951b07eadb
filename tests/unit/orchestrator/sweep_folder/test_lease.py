from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.sweep_folder.events import SweepExtended
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, follow
from orchestrator.sweep_folder.lease import LEASE_FILE, Lease, find_holder
from training import machine


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
    deadline = time.monotonic() + 120
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


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Let what runs inside a block run in another container of a host with the same name."""

    @contextmanager
    def be_there() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(machine, "this_machine", lambda: "another container")
            yield

    return be_there


def test_a_step_of_the_clock_costs_nobody_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(tmp_path) as lease:
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: 12.0)
        assert find_holder(tmp_path) is not None
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            Lease(tmp_path)
        lease.renew()
        lease.require()


def test_a_driver_in_another_container_of_the_same_host_is_alive_while_it_renews(
    tmp_path: Path, elsewhere: Callable[[], AbstractContextManager[None]]
) -> None:
    clock = Now()
    with elsewhere():
        Lease(tmp_path, clock=clock)
    assert find_holder(tmp_path, clock) is not None
    with pytest.raises(UserError, match=r"\(in another container\).* --steal-lease"):
        Lease(tmp_path, clock=clock)
    clock.s += 60
    assert find_holder(tmp_path, clock) is None
    Lease(tmp_path, clock=clock)


def test_from_the_moment_it_is_stolen_the_former_driver_writes_nothing(
    tmp_path: Path, elsewhere: Callable[[], AbstractContextManager[None]]
) -> None:
    with elsewhere():
        first = Lease(tmp_path)
    with Journal.open(tmp_path / JOURNAL_FILE, first) as of_first:
        with elsewhere():
            of_first.append(SweepExtended(3))
        second = Lease(tmp_path, steal=True)
        with Journal.open(tmp_path / JOURNAL_FILE, second) as of_second:
            # Within the same second: no renewal was missed.
            with pytest.raises(OrchestratorError, match=f"process {os.getpid()} on .* has taken it over"):
                of_first.append(SweepExtended(4))
            of_second.append(SweepExtended(5))
            first.release()
            of_second.append(SweepExtended(6))
    events, _ = follow(tmp_path / JOURNAL_FILE)
    assert [event.num_trials for event in events if isinstance(event, SweepExtended)] == [3, 5, 6]


def test_each_holder_has_a_higher_number_than_the_one_before(tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        with Lease(tmp_path):
            numbers.append(json.loads((tmp_path / LEASE_FILE).read_text())["number"])
    assert numbers == [1, 2, 3]
    # A later version may add fields, an earlier one knows none of ours.
    holder = json.loads((tmp_path / LEASE_FILE).read_text()) | {"host": "elsewhere", "pid": 1, "pid_started": 0.0}
    (tmp_path / LEASE_FILE).write_text(json.dumps(holder | {"renewed": 1000.0, "rack": 7}))
    assert find_holder(tmp_path, Now()) is not None


def test_a_driver_is_told_that_it_was_stolen_before_it_writes_again(tmp_path: Path) -> None:
    told = threading.Event()
    with Lease(tmp_path, renew_s=0.01) as lease:
        lease.on_lost = told.set
        write_lease(tmp_path, "elsewhere", 7, 0.0)
        assert told.wait(120)


def test_a_folder_that_became_read_only_does_not_hide_why_a_driver_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def drive() -> None:
        with Lease(tmp_path) as lease:
            monkeypatch.setattr("orchestrator.sweep_folder.lease._LeaseFile.locked", refuse)
            with pytest.raises(OrchestratorError, match=f"Cannot write to the sweep's folder, {tmp_path} .*Read-only"):
                lease.require()
            raise OrchestratorError("the photos are gone")

    with pytest.raises(OrchestratorError, match="the photos are gone"):
        drive()
    with pytest.raises(OrchestratorError, match="Cannot write to the sweep's folder"):
        Lease(tmp_path)


def test_a_lock_that_is_never_let_go_is_no_reason_to_wait_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.sweep_folder.lease._LOCK_WAIT_S", 0.05)
    with FileLock(tmp_path / LEASE_FILE), pytest.raises(OrchestratorError, match="Cannot write to the sweep's folder"):
        Lease(tmp_path)
