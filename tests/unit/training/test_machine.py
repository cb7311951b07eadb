from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from training import machine


def test_cpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert machine.usable_cpus() == 3


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (None, 1)])
def test_cpus_without_affinity_are_all_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, count: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert machine.usable_cpus() == expected


def test_peak_memory_grows_with_what_is_allocated() -> None:
    before = machine.peak_memory_bytes()
    content = bytearray(os.urandom(1 << 20)) * 256
    assert machine.peak_memory_bytes() >= before
    assert machine.peak_memory_bytes() >= len(content)


@pytest.mark.parametrize(("platform", "expected"), [("darwin", 4096), ("linux", 4096 << 10)])
@pytest.mark.parametrize("status", [None, "Name:\tpython\n", "VmHWM:"])
def test_peak_memory_without_proc_comes_from_getrusage_in_its_unit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, expected: int, status: str | None
) -> None:
    if status is not None:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=4096))
    assert machine.peak_memory_bytes() == expected


def test_memory_of_the_machine_holds_this_process() -> None:
    assert machine.total_memory_bytes() > machine.peak_memory_bytes() > 1 << 20


def test_limit_that_the_system_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    machine.limit_memory(1 << 30)


def test_process_is_alive_by_its_pid_and_its_start_until_it_has_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = psutil.Process(process.pid).create_time()
    assert machine.is_alive(process.pid, started)
    assert not machine.is_alive(process.pid, started - 60)  # a later process with the same pid
    process.kill()
    process.wait()
    assert not machine.is_alive(process.pid, started)


def test_a_step_of_the_clock_and_a_process_of_another_container_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "60"])
    ours, ticks = machine.identify_process(), machine._read_start(process.pid)
    assert ticks is not None
    other = ours | {"pid": process.pid, "ticks": ticks}
    # A clock that was set moves the start time that psutil derives from it, but not the ticks.
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 12.0)
    assert machine.is_alive(process.pid, 0.0, ticks)
    assert not machine.is_alive(process.pid, 0.0, ticks + 1)
    assert not machine.is_dead(ours)
    assert not machine.is_dead(other)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not machine.is_alive(process.pid, 0.0, ticks), "a zombie is dead"
    process.wait()
    assert machine.is_dead(other)
    # The same name of the host, but another PID namespace: nobody here can tell.
    boot_id = machine.this_machine().partition(":")[0]
    assert not machine.is_dead(other | {"machine": f"{boot_id}:1"})
    monkeypatch.setattr(machine, "_BOOT_ID", Path("/nowhere"))
    assert machine.this_machine() == "", "as on macOS"
    assert machine.is_here(ours["host"])
