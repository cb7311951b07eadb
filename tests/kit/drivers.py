"""Drivers of sweeps of trivial runs in processes of their own, which tests watch, signal and kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.writable import ray_base_dir

ROOT = Path(__file__).parents[2]
ID = "trivial-00000001"
BEGIN = """
from orchestrator.signals import run_program

def begin():
    print("begun", flush=True)
    from tests.kit.trivial_sweep import main
    return main()

run_program(begin)
"""
_BEGUN = "begun\n"


def journal(sweep_id: str = ID) -> Path:
    """Return the journal of a sweep."""
    return sweep_dir(sweep_id) / JOURNAL_FILE


E = TypeVar("E", bound=Event)


def events(kind: type[E], sweep_id: str = ID) -> list[E]:
    """Return the events of one kind in a sweep's journal."""
    return [event for event in follow(journal(sweep_id))[0] if isinstance(event, kind)]


class Driver:
    """A driver in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", BEGIN, ID, "--no-tracking", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def wait_for(self, kind: type[Event], count: int = 1) -> None:
        """Wait until the journal has so many events of a kind."""
        deadline = time.monotonic() + 240  # a loaded machine takes a minute to start Ray
        while len(events(kind)) < count:
            assert time.monotonic() < deadline, f"no {kind.__name__}"
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def wait_until(self, what: Callable[[], object]) -> None:
        """Wait until something is true of a driver that still runs."""
        deadline = time.monotonic() + 240
        while not what():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def await_begin(self) -> None:
        """Wait until its signals are handled, and nothing else has happened."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == _BEGUN

    def ray_folders(self) -> list[Path]:
        """Return the folders of its Ray, also once it has ended."""
        return [path.parents[1] for path in ray_base_dir().glob(f"spml-*/r/session_*_{self.process.pid}")]

    def children(self) -> list[psutil.Process]:
        """Return its processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def runs(self, name: str) -> bool:
        """Return whether it has a process of this name."""
        with suppress(psutil.NoSuchProcess):
            return any(child.name() == name for child in self.children())
        return False

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if one is given; wait for the end, and return exit code and output."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=240)
        return self.process.returncode, output.removeprefix(_BEGUN)
