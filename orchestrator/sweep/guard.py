"""Say what a driver is waiting for when nothing happens: Ray, nodes, or a disk that does not answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.cluster.session import kill_local_ray
from orchestrator.cluster.watch import RayWatch, describe_loss
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.signals import StopSignals
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep.progress import Progress
from orchestrator.sweep_folder.waiting import Waiting, write_waiting
from training.counts import counted

STALL_S = 60.0
"""Tune takes several steps a second; one that takes this long is waiting for something that does not answer."""
_SHORTAGE_S = 30.0
"""A cluster's autoscaler may replace a node within this time; trials of a smaller one wait without a word."""


def give_up(plan: SweepPlan, options: DriveOptions) -> None:
    """Do what must be done if a signal has no effect, because the main thread hangs, and the process ends here."""
    print(f"interrupted. Continue: {_resume(plan, options)}", file=sys.stderr, flush=True)
    kill_local_ray()


class Guard:
    """Watches what a driver depends on while trials run.

    Args:
        plan: The sweep.
        folder: Its folder.
        options: How it runs.
        signals: Receives one when Ray is gone.
    """

    def __init__(self, plan: SweepPlan, folder: Path, options: DriveOptions, signals: StopSignals) -> None:
        self._resume = _resume(plan, options)
        self._resources, self._folder = plan.resources, folder
        self._watch = RayWatch(options.address, signals.send, resume=self._resume)
        self._stepped: float | None = None
        self._find_waiting: Callable[[], tuple[int, int] | None] = lambda: None
        self._waiting: Waiting | None = None

    def start(self, progress: Progress) -> None:
        """Start watching; call it once Ray runs."""
        self._watch.start()
        progress.warn_of(self.describe_shortage, back="There are enough nodes again", patience_s=_SHORTAGE_S)
        progress.warn_of(self.describe_waiting, back="No trial waits any longer", patience_s=0.0)
        progress.warn_of(self.describe_stall, back="The driver continues", patience_s=0.0)

    def stop(self) -> None:
        """Stop watching; call it before Ray is stopped."""
        self._watch.stop()
        self.watch_waiting(lambda: None)
        write_waiting(self._folder, None)

    def note_step(self) -> None:
        """Record that the driver takes its steps."""
        self._stepped = time.monotonic()

    def note_end(self) -> None:
        """Record that no further step is due."""
        self._stepped = None

    def describe_loss(self) -> str | None:
        """Return a message that Ray is gone and how to continue, or None if it is there."""
        problem = self._watch.problem
        return None if problem is None else describe_loss(problem, self._resume)

    def describe_shortage(self) -> str | None:
        """Return a message about missing resources, or None if there are enough."""
        shortage = self._watch.find_shortage(self._resources)
        return shortage and (
            f"No trial can start: {shortage}. The sweep waits for more nodes. "
            f"Stop it with Ctrl-C, and continue it later: {self._resume}"
        )

    def watch_waiting(self, find_waiting: Callable[[], tuple[int, int] | None]) -> None:
        """Watch the trials that wait for a process, from now on.

        Args:
            find_waiting: Returns how many do, and since when the first does, in ms.
        """
        self._find_waiting = find_waiting

    def describe_waiting(self) -> str | None:
        """Return a message that trials have waited for a while, or None; `status` reads it in the sweep's folder."""
        found, waiting = self._find_waiting(), None
        if found is not None and time.time() - found[1] / 1000 >= _SHORTAGE_S:
            free = self._watch.describe_free(self._resources)
            waiting = Waiting(*found, f"{self._resources.describe()} each; {free}")
        if waiting != self._waiting:
            write_waiting(self._folder, waiting)
            self._waiting = waiting
        if waiting is None:
            return None
        return f"{counted(waiting.num_trials, 'trial')} cannot start yet: waiting for {waiting.what}"

    def describe_stall(self) -> str | None:
        """Return a message that the driver is stuck, or None if it takes steps."""
        stepped = self._stepped
        if stepped is None or time.monotonic() - stepped < STALL_S:
            return None
        # When Ray is gone, the watch says so. What else a step waits for is the disk: it is synced after every report.
        return (
            f"The driver has been waiting for {STALL_S:.0f} s for Ray or the disk of {self._folder}. It "
            f"continues when they answer. You can also stop it, and continue later: {self._resume}"
        )


def _resume(plan: SweepPlan, options: DriveOptions) -> str:
    return f"orchestrator resume {plan.id}{options.repeated_flags()}"
