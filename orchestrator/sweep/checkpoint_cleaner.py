"""Delete checkpoints that are no longer needed while a sweep runs, and keep the rest below its size limit."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from orchestrator.follower import Follower
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.checkpoints import delete_checkpoints, delete_last_state, measure_checkpoints
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState

GIB = 1024**3
# Not more often, because an object storage takes a request for every trial that is measured.
_MEASURE_S = 5.0
_SETTLE_S = 60.0


class CheckpointCleaner(Follower):
    """Deletes checkpoints that are no longer needed, and measures the others.

    A sweep needs those of unfinished trials and the best weights of the best COMPLETE trial. A promotion needs those of
    all its trials until each has been evaluated on the test split. Storage that does not answer never stops the sweep:
    whatever could not be deleted is deleted at the next start.

    Args:
        plan: The sweep.
        state: The journal's state, which its writer updates.
    """

    def __init__(self, plan: SweepPlan, state: SweepState) -> None:
        super().__init__("checkpoint-cleaner", poll_s=_MEASURE_S, retry_s=_MEASURE_S, max_retry_s=_MEASURE_S)
        self._plan, self._state = plan, state
        self._ended: queue.Queue[TrialRecord] = queue.Queue()
        self._best: TrialRecord | None = None
        self._kept: set[int] = set()
        self.kept_bytes = 0
        self.trial_bytes = 0

    def start(self) -> None:
        """Start with what an earlier driver left."""
        for record in list(self._state.records.values()):
            if record.ended:
                self._ended.put(record)
        super().start()

    def trial_ended(self, record: TrialRecord) -> None:
        """Queue a trial that no longer writes checkpoints."""
        self._ended.put(record)
        self.wake()

    def has_room(self) -> bool:
        """Return whether, as far as is known, one more trial fits under the cap.

        An unfinished trial counts as much as the largest one so far, because it may still grow to that. Before it
        answers no, the checkpoints of ended trials are deleted.
        """
        if not self._fits():
            # Queue.join, but with a time-out, which Queue.join does not take.
            with self._ended.all_tasks_done:
                self._ended.all_tasks_done.wait_for(lambda: not self._ended.unfinished_tasks, timeout=_SETTLE_S)
        return self._fits()

    def stop(self, drain_s: float = math.inf) -> bool:
        """Delete what is still queued, and stop."""
        return super().stop(drain_s)

    def _act(self) -> bool:
        while not self._ended.empty():
            self._try_to(partial(self._settle, self._ended.get()))
            self._try_to(self._measure_kept)
            self._ended.task_done()  # only now, because has_room waits for the new figures
        # Not after each trial that ends: with a thousand at a time, that is a thousand requests to an object storage.
        if not self._stopping.is_set():
            self._try_to(self._measure_open)
        return True

    def _settle(self, record: TrialRecord) -> None:
        """Keep the best weights of the better one of this trial and the best so far, and delete the other's."""
        self.trial_bytes = max(self.trial_bytes, self._size(record.trial))
        if record.state is not TrialState.COMPLETE:
            self._delete(record.trial)
            return
        if self._plan.kind == "promote":
            self._kept.add(record.trial)
            delete_last_state(self._plan, record.trial)
            return
        # Only the best so far can still win: a trial that has lost is never needed again.
        leader = best([record, *([self._best] if self._best else [])], self._plan.protocol)
        loser = record if leader is not record else self._best
        self._best = leader
        if loser is not None:
            self._delete(loser.trial)
        self._kept = {leader.trial} if leader else set()
        if leader is record:
            delete_last_state(self._plan, record.trial)

    def _fits(self) -> bool:
        # The state knows a trial as soon as it is handed out, before its first checkpoint can be measured.
        num_open = sum(not record.ended for record in list(self._state.records.values()))
        return self.kept_bytes + (num_open + 1) * self.trial_bytes <= self._plan.cap_gib * GIB

    def _try_to(self, act: Callable[[], None]) -> None:
        with suppress(Exception):  # file systems and remote storages raise all kinds of errors
            act()

    def _measure_open(self) -> None:
        for record in list(self._state.records.values()):
            if self._stopping.is_set() or not self._ended.empty():
                return  # something is waiting; the next round measures them
            if not record.ended:
                self.trial_bytes = max(self.trial_bytes, self._size(record.trial))

    def _measure_kept(self) -> None:
        self.kept_bytes = sum(self._size(trial) for trial in self._kept)

    def _size(self, trial: int) -> int:
        return measure_checkpoints(self._plan, trial)

    def _delete(self, trial: int) -> None:
        delete_checkpoints(self._plan, trial)
