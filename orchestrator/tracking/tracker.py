"""Keep MLflow up to date: a thread of the driver follows the sweep's journal and writes what MLflow lacks.

The sweep never waits for this thread and never fails because of it. While MLflow is unavailable, the thread keeps
trying; what is missing is written when MLflow is back, or by the next :func:`sync` of the sweep.
"""

from __future__ import annotations

import time
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import OrchestratorError
from orchestrator.follower import Follower
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.tracking.connection import SCHEMA_WAIT_S, require_sound_database
from orchestrator.tracking.runs import RunsWriter
from orchestrator.tracking.store import MlflowStore

_POLL_S = 1.0
_MAX_RETRY_S = 10.0
_LAST_TRY_S = 3.0
_SHARE = 0.2
"""Share of a CPU that the thread may use while a sweep runs; more would hold up the driver's loop (GIL)."""
_LOCK_FILE = "tracking.lock"


class Tracker(Follower):
    """Keeps MLflow up to date with one sweep's journal.

    Args:
        plan: The sweep.
        journal: Its journal.
        gives_up_on: Errors that end the thread; it tries again after all others.

    Attributes:
        cpu_s: Processor time that the thread has taken.
        catch_up_s: Time from :meth:`stop` until everything was written.
    """

    def __init__(self, plan: SweepPlan, journal: Path, *, gives_up_on: tuple[type[Exception], ...] = ()) -> None:
        self.gives_up_on = gives_up_on
        super().__init__("tracking", poll_s=_POLL_S, retry_s=_POLL_S, max_retry_s=_MAX_RETRY_S, last_try_s=_LAST_TRY_S)
        self.cpu_s = 0.0
        self.catch_up_s = 0.0
        self._plan, self._journal = plan, journal
        self._lock = FileLock(journal.parent / _LOCK_FILE, blocking=False)
        self._is_known = False
        self._store: MlflowStore | None = None
        self._writer: RunsWriter | None = None
        self._paced = 0.0

    def stop(self, drain_s: float = 60.0) -> bool:
        """Write what is left, and end the thread; :func:`sync` can write what is still missing."""
        asked = time.monotonic()
        is_level = super().stop(drain_s)
        self.catch_up_s = time.monotonic() - asked
        return is_level

    def _act(self) -> bool:
        if self._store is None or self._writer is None:
            self._store, self._writer = self._connect()
        self._store.check()
        self._writer.catch_up()
        self.cpu_s = time.thread_time()
        return True

    def _connect(self) -> tuple[MlflowStore, RunsWriter]:
        """Take the lock, and find out what the store has."""
        try:
            self._lock.acquire()
        # Two writers would create every run twice, because a look-up and a creation are two requests.
        except Timeout:
            raise OrchestratorError(f"another process is writing {self._plan.id} to MLflow") from None
        store = MlflowStore(self._plan.dataset, known=self._is_known)
        self._is_known = True
        self._away_since = None  # it answers, however long it takes to write what is missing
        self._paced = time.thread_time()
        return store, RunsWriter(self._plan, self._journal, store, self._pace)

    def _reset(self) -> None:
        self._store = self._writer = None
        # Released between attempts, so that `sync` in another process may succeed where this one fails.
        self._lock.release()
        self.cpu_s = time.thread_time()

    def _close(self) -> None:
        self._lock.release()

    def _pace(self) -> None:
        self.cpu_s = now = time.thread_time()
        # At the end the sweep no longer needs the CPU, so the rest is written at full speed.
        if not self._stopping.is_set():
            self._stopping.wait(min(_POLL_S, (now - self._paced) * (1 / _SHARE - 1)))
        self._paced = now


def sync(sweep_id: str, wait_s: float = SCHEMA_WAIT_S, *, retry: bool = True) -> bool:
    """Write what MLflow lacks of a sweep; return False if another process is doing so, or if it takes too long.

    Args:
        sweep_id: The sweep.
        wait_s: How long to keep trying.
        retry: Try again after a failure.

    Raises:
        BrokenDatabaseError: The file of MLflow's database is damaged.
        OrchestratorError: Something failed, and ``retry`` is False.
    """
    require_sound_database()
    gives_up_on = () if retry else (Exception,)
    tracker = Tracker(load_plan(sweep_id), sweep_dir(sweep_id) / JOURNAL_FILE, gives_up_on=gives_up_on)
    tracker.start()
    is_level = tracker.stop(wait_s)
    if tracker.problem and not retry:
        raise OrchestratorError(f"{sweep_id} cannot be written to MLflow: {tracker.problem}")
    return is_level
