"""What a sweep keeps on disk: checkpoints while they are needed and under a cap, artifacts until they are logged,
tracebacks.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pyarrow import fs

from orchestrator.errors import OrchestratorError
from orchestrator.home import CHECKPOINTS_DIR, ERRORS_DIR, SPOOL_DIR, sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import redact
from orchestrator.sweep_folder.journal import SweepState
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.uris import join_uri

GIB = 1024**3
_MEASURE_S = 5.0
_SETTLE_S = 60.0


def checkpoint_uri(plan: SweepPlan) -> str:
    """Return the folder or URI under which the trials' checkpoints lie."""
    if plan.storage is None:
        return str(sweep_dir(plan.id) / CHECKPOINTS_DIR)
    return join_uri(plan.storage, plan.id)


def trial_uri(plan: SweepPlan, trial: int) -> str:
    """Return the folder or URI of one trial's checkpoints."""
    return join_uri(checkpoint_uri(plan), trial_name(trial))


def has_checkpoints(plan: SweepPlan, trial: int) -> bool:
    """Return whether the storage has any checkpoint of a trial.

    Raises:
        OSError, ValueError: The storage cannot be reached, or is none.
    """
    system, path = _locate(plan, trial)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def delete_checkpoints(plan: SweepPlan, trial: int) -> None:
    """Delete all checkpoints of a trial.

    Raises:
        OSError: The storage does not let them go.
    """
    system, path = _locate(plan, trial)
    if system.get_file_info(path).type != fs.FileType.NotFound:
        system.delete_dir(path)


def _locate(plan: SweepPlan, trial: int) -> tuple[fs.FileSystem, str]:
    uri = trial_uri(plan, trial)
    if "://" in uri:
        system, path = fs.FileSystem.from_uri(uri)
        return system, path
    return fs.LocalFileSystem(), uri


def spool_artifacts(sweep_id: str, trial: int, files: dict[str, bytes]) -> None:
    """Put a trial's artifacts where the tracker finds them: a folder that is whole as soon as it is there.

    Raises:
        OrchestratorError: The disk does not take them.
    """
    target = sweep_dir(sweep_id) / SPOOL_DIR / trial_name(trial)
    draft = target.with_name(f".{target.name}")
    with _on_disk(f"artifacts of trial {trial}", target, sweep_id):
        shutil.rmtree(draft, ignore_errors=True)
        for name, content in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)


def write_error(sweep_id: str, trial: int, details: str) -> Path:
    """Keep the traceback of a failed trial beside the journal, which has its first line.

    Raises:
        OrchestratorError: The disk does not take it.
    """
    path = sweep_dir(sweep_id) / ERRORS_DIR / f"{trial_name(trial)}.txt"
    with _on_disk(f"traceback of trial {trial}", path, sweep_id):
        path.parent.mkdir(exist_ok=True)
        path.write_text(redact(details), encoding="utf-8")
    return path


@contextmanager
def _on_disk(subject: str, path: Path, sweep_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OrchestratorError(
            f"{subject} must be on a disk that takes it, but got {path} ({error.strerror or error}). "
            f"Free some space, then: orchestrator resume {sweep_id}"
        ) from error


class Janitor:
    """A thread that deletes the checkpoints nobody needs any more, and measures what the others take.

    Needed are those of trials that have not ended, and the best weights of the best COMPLETE one; of a promotion those
    of all, until the test split was opened for each. Storage that cannot be reached costs disk, never the sweep: what
    could not be deleted is, at the next start.

    Args:
        plan: The sweep.
        state: The journal's, kept up by its writer.
    """

    def __init__(self, plan: SweepPlan, state: SweepState) -> None:
        self._plan, self._state = plan, state
        self._ended: queue.Queue[TrialRecord | None] = queue.Queue()
        self._best: TrialRecord | None = None
        self._kept: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="janitor", daemon=True)
        self.kept_bytes = 0
        self.trial_bytes = 0

    def start(self) -> None:
        """Begin with what an earlier driver left."""
        for record in list(self._state.records.values()):
            if record.ended:
                self._ended.put(record)
        self._thread.start()

    def trial_ended(self, record: TrialRecord) -> None:
        """Take in that a trial's checkpoints are no longer written."""
        self._ended.put(record)

    def has_room(self) -> bool:
        """Return whether one more trial fits under the cap, as far as is known.

        Each trial that has not ended counts as much as the largest one so far: it may still grow to that. Before the
        answer is no, what the trials that ended leave behind is deleted.
        """
        if not self._fits():
            with self._ended.all_tasks_done:
                self._ended.all_tasks_done.wait_for(lambda: not self._ended.unfinished_tasks, timeout=_SETTLE_S)
        return self._fits()

    def stop(self) -> None:
        """Finish what is to be deleted, and end."""
        self._ended.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                record = self._ended.get(timeout=_MEASURE_S)
            except queue.Empty:
                self._try_to(self._measure)
                continue
            if record is not None:
                self._try_to(partial(self._settle, record))
                self._try_to(self._measure)
            self._ended.task_done()
            if record is None:
                return

    def _settle(self, record: TrialRecord) -> None:
        """Keep the best weights of the better one of this trial and the best so far, and delete the other's."""
        self.trial_bytes = max(self.trial_bytes, self._size(record.trial))
        if record.state is not TrialState.COMPLETE:
            self._delete(record.trial)
            return
        if self._plan.kind == "promote":
            self._kept.add(record.trial)
            self._drop_last(record.trial)
            return
        leader = best([record, *([self._best] if self._best else [])], self._plan.protocol)
        loser = record if leader is not record else self._best
        self._best = leader
        if loser is not None:
            self._delete(loser.trial)
        self._kept = {leader.trial} if leader else set()
        if leader is record:
            self._drop_last(record.trial)

    def _fits(self) -> bool:
        # A trial counts from its hand-out, which is in the state before it is measured.
        num_open = sum(not record.ended for record in list(self._state.records.values()))
        return self.kept_bytes + (num_open + 1) * self.trial_bytes <= self._plan.cap_gib * GIB

    def _try_to(self, act: Callable[[], None]) -> None:
        with suppress(Exception):  # whatever a file system or a remote storage says
            act()

    def _measure(self) -> None:
        sizes = [self._size(record.trial) for record in list(self._state.records.values()) if not record.ended]
        self.trial_bytes = max([self.trial_bytes, *sizes])
        self.kept_bytes = sum(self._size(trial) for trial in self._kept)

    def _size(self, trial: int) -> int:
        system, path = _locate(self._plan, trial)
        files = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sum(info.size or 0 for info in files)

    def _delete(self, trial: int) -> None:
        delete_checkpoints(self._plan, trial)

    def _drop_last(self, trial: int) -> None:
        system, path = _locate(self._plan, trial)
        if system.get_file_info(path).type != fs.FileType.NotFound:
            from training.loop.checkpoint import (
                CheckpointStore,
            )  # torch comes with it: only where there is something to drop

            CheckpointStore(trial_uri(self._plan, trial)).drop("last")
