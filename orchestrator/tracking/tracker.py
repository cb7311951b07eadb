"""Keep MLflow up to date: a thread of the driver follows the sweep's journal and writes what MLflow lacks.

The sweep never waits for this thread and never fails because of it. While MLflow is away the thread keeps trying; what
is missing is written when it is back, or by the next :func:`sync` of the sweep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.tracking.connection import SCHEMA_WAIT_S, describe_problem
from orchestrator.tracking.runs import RunsWriter
from orchestrator.tracking.store import MlflowStore

_POLL_S = 1.0
_MAX_RETRY_S = 10.0
_LAST_TRY_S = 3.0
_SHARE = 0.2
"""Part of a CPU that the thread may take while a sweep runs; with more, it would hold up the driver's loop (GIL)."""
_LOCK_FILE = "tracking.lock"


class Tracker:
    """A thread that keeps MLflow level with one sweep's journal.

    Attributes:
        problem: Why MLflow cannot be written at the moment, or None.
        cpu_s: CPU time that the thread has taken.
        catch_up_s: Time from :meth:`stop` until everything was written.
    """

    def __init__(self, plan: SweepPlan, journal: Path) -> None:
        self.problem: str | None = None
        self.cpu_s = 0.0
        self.catch_up_s = 0.0
        self._plan, self._journal = plan, journal
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._away_since: float | None = None
        self._connected = False
        self._level = False
        self._paced = 0.0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> None:
        """Start following; returns at once."""
        self._thread.start()

    def stop(self, drain_s: float = 60.0) -> bool:
        """Write what is missing, and end the thread.

        Args:
            drain_s: How long MLflow may be away before it is given up, and how long writing may take.

        Returns:
            Whether MLflow now has everything that the journal has. If not, ``problem`` says why, and :func:`sync`
            writes the rest later.
        """
        asked = time.monotonic()
        # The wait counts from when MLflow went away, so a long outage does not delay the end as well.
        away_since = asked if self._away_since is None else self._away_since
        self._deadline = max(asked + _LAST_TRY_S, away_since + drain_s)
        # The deadline is set before the event, because the thread reads it as soon as the event is set.
        self._stopping.set()
        # A call to MLflow may hang for longer than we want to wait.
        self._thread.join(self._deadline - asked + _POLL_S)
        self.catch_up_s = time.monotonic() - asked
        return self._level

    def _run(self) -> None:
        retry_s = _POLL_S
        while not self._over():
            try:
                with _only_writer(self._journal.parent):
                    self._follow()
            except Exception as error:  # of whatever kind: tracking must never fail a sweep
                retry_s = _POLL_S if self.problem is None else min(2 * retry_s, _MAX_RETRY_S)
                self.problem = describe_problem(error)
                self._away_since = time.monotonic() if self._away_since is None else self._away_since
                if self._stopping.wait(retry_s):
                    time.sleep(_POLL_S)
            self.cpu_s = time.thread_time()

    def _over(self) -> bool:
        return self._stopping.is_set() and (self._level or time.monotonic() > self._deadline)

    def _follow(self) -> None:
        """Write until asked to stop; after a failure the next call starts from what MLflow has."""
        store = MlflowStore(self._plan.dataset, known=self._connected)
        self._connected = True
        self._away_since = None  # it answers, even if writing what it lacks takes long
        writer = RunsWriter(self._plan, self._journal, store, self._pace)
        self._paced = time.thread_time()
        while True:
            stopping = self._stopping.is_set()
            started = time.monotonic()
            # sqlite would go on writing into a deleted file without an error.
            store.check()
            writer.catch_up()
            self.problem = self._away_since = None
            self.cpu_s = time.thread_time()
            # `stopping` was read before the journal, so nothing that was appended before the stop is missed.
            if stopping:
                self._level = True
                return
            self._stopping.wait(max(0.0, _POLL_S - (time.monotonic() - started)))

    def _pace(self) -> None:
        self.cpu_s = now = time.thread_time()
        if not self._stopping.is_set():
            self._stopping.wait(min(_POLL_S, (now - self._paced) * (1 / _SHARE - 1)))
        self._paced = now


def sync(sweep_id: str, wait_s: float = SCHEMA_WAIT_S) -> bool:
    """Write what MLflow lacks of a sweep; return False if another process is doing so, or if it takes too long."""
    tracker = Tracker(load_plan(sweep_id), sweep_dir(sweep_id) / JOURNAL_FILE)
    tracker.start()
    return tracker.stop(wait_s)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the right to write a sweep to MLflow; the system takes it back from a process that dies."""
    lock = FileLock(folder / _LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise OrchestratorError(f"another process is writing {folder.name} to MLflow") from None
    try:
        yield
    finally:
        lock.release()
