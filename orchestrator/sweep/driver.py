"""Runs a sweep: start, resume, extend. All three replay the journal and start a fresh Tuner; nothing is unpickled.

At any moment the driver may die, by kill -9 as well: what it needs to go on is in the journal and in the checkpoints,
never in memory alone and never written only at the end.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import time
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from orchestrator import provenance
from orchestrator.background import in_background, quick_handover
from orchestrator.cluster.nodes import require_shared
from orchestrator.cluster.session import cannot_start, quieten, start_ray, stop_ray
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import create_sweep, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan, load_plan, trial_config
from orchestrator.signals import Interrupted, StopSignals
from orchestrator.sweep.hooks import DRAIN_S, REAL, Hooks, NoTracker, TrackerLike
from orchestrator.sweep.progress import Progress
from orchestrator.sweep_folder.backup import JournalBackup
from orchestrator.sweep_folder.disk import Janitor, spool_artifacts, write_error
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, SweepState, replay
from orchestrator.sweep_folder.lease import Lease, end_orphans
from orchestrator.sweep_folder.records import TrialRecord, best
from orchestrator.writable import require_writable
from training.errors import DatasetError, WeightsError

if TYPE_CHECKING:
    from orchestrator.trials.director import Director

T = TypeVar("T")

FINISHED, INTERRUPTED, FAILED = "FINISHED", "INTERRUPTED", "FAILED"
_SCRATCH_DIR = ".ray"


@dataclass(frozen=True)
class SweepOutcome:
    """What came of a driver's work.

    Attributes:
        state: ``FINISHED``, or ``INTERRUPTED`` by Ctrl-C or SIGTERM.
        seconds: From the driver's start to its end.
        tracking_problem, backup_problem: Why the tracking store, or the backup, lacks something, if it does.
    """

    plan: SweepPlan
    records: tuple[TrialRecord, ...]
    state: str
    seconds: float
    tracking_problem: str | None = None
    backup_problem: str | None = None

    @property
    def best(self) -> TrialRecord | None:
        """The best COMPLETE trial."""
        return best(self.records, self.plan.protocol)


def run_sweep(
    plan: SweepPlan,
    *,
    address: str | None = None,
    backup: str | None = None,
    show_progress: bool = True,
    hooks: Hooks = REAL,
) -> SweepOutcome:
    """Run a new sweep, a single training, or the final runs of a promotion, to its end.

    Args:
        plan: What to run.
        address: Of a Ray cluster (``auto``); None starts Ray on this machine.
        backup: URI under which the journal is copied, for :func:`orchestrator.sweep_folder.restore.restore_sweep`.
        show_progress: Show on stderr where it is.
        hooks: For tests and benchmarks.

    Raises:
        UserError: Its folder or the cache cannot be written.
        ConfigError, DatasetError, WeightsError: Its data or model cannot be had.
        OrchestratorError: Ray cannot be started, or the disk is full. A sweep that had begun can be resumed; else
            nothing is left of it.
    """
    require_writable(address)
    folder = create_sweep(plan.id, plan.to_json())
    try:
        return _drive(plan, address, show_progress, hooks, backup=backup)
    except (ValueError, DatasetError, WeightsError, OrchestratorError, OSError):
        if replay(folder / JOURNAL_FILE).driver_state is None:
            shutil.rmtree(folder, ignore_errors=True)  # it never began: its name stays free
        raise


def resume(
    sweep_id: str,
    *,
    address: str | None = None,
    allow_changed: bool = False,
    steal_lease: bool = False,
    backup: str | None = None,
    show_progress: bool = True,
    hooks: Hooks = REAL,
) -> SweepOutcome:
    """Go on with what an interrupted or killed driver left; a finished sweep is left as it is.

    Args:
        sweep_id: Which.
        allow_changed: Go on under another commit, lock or data hash than it was started with.
        steal_lease: Take it from a driver on another host that may still live.
        backup: As for :func:`run_sweep`; None is where the last driver copied its journal to, if it did.
        address, show_progress, hooks: As for :func:`run_sweep`.

    Raises:
        UserError: There is no such sweep, another driver is at work on it, or commit, lock or data have changed.
        OrchestratorError: As :func:`run_sweep`; or the journal is broken.
    """
    plan = load_plan(sweep_id)
    return _drive(
        plan, address, show_progress, hooks, allow_changed=allow_changed, steal_lease=steal_lease, backup=backup
    )


def extend(
    sweep_id: str,
    num_more: int,
    *,
    address: str | None = None,
    allow_changed: bool = False,
    steal_lease: bool = False,
    show_progress: bool = True,
    hooks: Hooks = REAL,
) -> SweepOutcome:
    """Add trials to a sweep, and run them and whatever it had not finished.

    Args:
        num_more: How many.
        sweep_id, address, allow_changed, steal_lease, show_progress, hooks: As for :func:`resume`.

    Raises:
        UserError: ``num_more`` is not positive, or there is nothing more to try; or as :func:`resume`.
        OrchestratorError: As :func:`resume`.
    """
    plan = load_plan(sweep_id)
    if num_more < 1:
        raise UserError(f"--trials must be at least +1, but got {num_more}.")
    num_trials = _num_trials(plan, replay(sweep_dir(sweep_id) / JOURNAL_FILE))
    if plan.num_points is not None and num_trials + num_more > plan.num_points:
        raise UserError(
            f"--trials must leave the sweep within the {plan.num_points} points that it can try, but got +{num_more} "
            f"with {num_trials} trials there. Start a sweep over a larger space."
        )
    return _drive(
        plan, address, show_progress, hooks, allow_changed=allow_changed, steal_lease=steal_lease, num_more=num_more
    )


def _drive(
    plan: SweepPlan,
    address: str | None,
    show_progress: bool,
    hooks: Hooks,
    *,
    allow_changed: bool = False,
    steal_lease: bool = False,
    backup: str | None = None,
    num_more: int = 0,
) -> SweepOutcome:
    require_writable(address)
    folder, started = sweep_dir(plan.id), time.monotonic()
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(folder, steal=steal_lease))
        signals = stack.enter_context(StopSignals())
        journal = stack.enter_context(Journal.open(folder / JOURNAL_FILE, lease))
        stack.enter_context(quick_handover())
        end_orphans(folder)
        backup = backup or journal.state.backup
        copier = stack.enter_context(JournalBackup(plan, journal, lease, backup, steal=steal_lease)) if backup else None
        state, problem = FINISHED, None
        if num_more or not _is_done(plan, journal.state):
            progress = Progress(plan, journal.state, shown=show_progress)
            driver = _Driver(plan, journal, signals, hooks, progress, backup)
            progress.watch("MLflow", lambda: driver.tracker.problem)
            if copier:
                progress.watch("the backup", lambda: copier.problem)
            state = driver.run(address, allow_changed, num_more)
            problem = driver.tracking_problem
        else:
            problem = _settle(plan, journal, hooks)
        records = tuple(record for _, record in sorted(journal.state.records.items()))
        backup_problem = None if copier is None or copier.stop() else copier.problem
        return SweepOutcome(plan, records, state, time.monotonic() - started, problem, backup_problem)


def _settle(plan: SweepPlan, journal: Journal, hooks: Hooks) -> str | None:
    """Write what a driver that was killed after its last trial left unsaid: its end, and what MLflow lacks; return why
    it lacks some.
    """
    if journal.state.driver_state != FINISHED:
        journal.append({"event": "driver_ended", "state": FINISHED})
    tracker = hooks.make_tracker(plan, journal.path)
    tracker.start()
    return None if tracker.stop(DRAIN_S) else tracker.problem


class _Driver:
    """One driver's life."""

    def __init__(
        self,
        plan: SweepPlan,
        journal: Journal,
        signals: StopSignals,
        hooks: Hooks,
        progress: Progress,
        backup: str | None,
    ) -> None:
        self.tracking_problem: str | None = None
        self._plan, self._journal, self._signals, self._hooks, self._progress = plan, journal, signals, hooks, progress
        self._folder, self._backup = sweep_dir(plan.id), backup
        self.tracker: TrackerLike = NoTracker()
        self._janitor = Janitor(plan, journal.state)

    def run(self, address: str | None, allow_changed: bool, num_more: int) -> str:
        """Run to the end, whatever it is, and leave nothing running; return how it ended."""
        with self._progress:
            try:
                with ExitStack() as stack:
                    self._start(stack, address, allow_changed, num_more)
                    self._run_trials()
            except KeyboardInterrupt:
                return INTERRUPTED
        return FINISHED

    def _start(self, stack: ExitStack, address: str | None, allow_changed: bool, num_more: int) -> None:
        """Start all that works beside the trials; what takes long, side by side."""
        quieten()
        config = trial_config(self._plan, {})
        self.tracker = self._hooks.make_tracker(self._plan, self._journal.path)
        stack.callback(self._stop_tracking)
        self.tracker.start()
        identity = in_background(lambda: self._hooks.identify(config, self._progress.say))
        stack.callback(stop_ray)
        self._start_ray(address)
        self._signals.arm()  # Ray takes SIGTERM when it starts
        current = provenance.collect(self._plan, self._wait(identity))
        if not allow_changed:
            self._refuse_changed(current)
        self._announce(current, num_more)
        stack.push(self._end)
        stack.callback(self._janitor.stop)
        self._janitor.start()

    def _start_ray(self, address: str | None) -> None:
        resources = self._plan.resources
        slots = self._plan.concurrency * resources.workers
        try:
            start_ray(
                self._folder,
                address=address,
                num_cpus=slots * resources.cpus_per_worker,
                num_gpus=math.ceil(slots * resources.gpus_per_worker),
                driver_modules=["orchestrator.trials.director", "orchestrator.trials.tune"],
            )
        except (RuntimeError, OSError) as error:
            raise cannot_start(address, error) from error
        if address is not None:
            require_shared(self._plan)

    def _refuse_changed(self, current: dict[str, str]) -> None:
        changed = provenance.differences(self._journal.state.provenance, current)
        if changed:
            raise UserError(
                f"sweep must go on with what it was started with, but {provenance.describe_differences(changed)}. "
                f"Go back to that, or allow it: orchestrator resume {self._plan.id} --allow-changed"
            )

    def _announce(self, current: dict[str, str], num_more: int) -> None:
        num_trials = _num_trials(self._plan, self._journal.state) + num_more
        if num_more:
            self._journal.append({"event": "sweep_extended", "num_trials": num_trials})
        self._journal.append(
            {
                "event": "driver_started",
                "sweep": self._plan.id,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "num_trials": num_trials,
                "provenance": current,
                **({"backup": self._backup} if self._backup else {}),
            }
        )

    def _run_trials(self) -> None:
        # Tune, Optuna and what they import take seconds: not before Ray's processes are under way.
        from orchestrator.trials.director import Director

        director = Director(
            self._plan,
            self._journal,
            on_artifacts=self._keep_artifacts,
            on_end=self._after_trial,
            say=self._progress.say,
        )
        director.end_what_was_over()
        self._progress.enter_phase("")
        try:
            with self._signals.interrupting():
                self._run_over_tune(director)
        finally:
            self._progress.enter_phase("ending")
            shutil.rmtree(self._folder / _SCRATCH_DIR, ignore_errors=True)

    def _run_over_tune(self, director: Director) -> None:
        from orchestrator.trials.actor import make_trainable, make_training_run
        from orchestrator.trials.placement import runs_over_train
        from orchestrator.trials.tune import run_trials
        from orchestrator.trials.workers import make_train_trainable

        make_run = self._hooks.make_run
        over_train = runs_over_train(self._plan)
        run_trials(
            self._plan,
            make_train_trainable(self._plan, make_run)
            if over_train
            else make_trainable(self._plan, make_run or make_training_run),
            director,
            scratch=self._folder / _SCRATCH_DIR,
            has_room=self._janitor.has_room,
            interrupted=lambda: self._signals.received,
        )

    def _keep_artifacts(self, trial: int, files: dict[str, bytes]) -> None:
        spool_artifacts(self._plan.id, trial, files)

    def _after_trial(self, record: TrialRecord, details: str) -> None:
        if details:
            write_error(self._plan.id, record.trial, details)
        self._janitor.trial_ended(record)

    def _wait(self, future: Future[T]) -> T:
        while True:
            try:
                return future.result(timeout=0.2)
            except TimeoutError:
                if future.done():
                    raise  # its own
                if self._signals.received:
                    raise Interrupted from None

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        state = FINISHED if kind is None else INTERRUPTED if interrupted else FAILED
        self._journal.append({"event": "driver_ended", "state": state})

    def _stop_tracking(self) -> None:
        self._progress.enter_phase("writing to MLflow what is left")
        if not self.tracker.stop(DRAIN_S):
            self.tracking_problem = self.tracker.problem


def _num_trials(plan: SweepPlan, state: SweepState) -> int:
    return state.num_trials or plan.num_trials


def _is_done(plan: SweepPlan, state: SweepState) -> bool:
    return not state.open_trials() and len(state.records) >= _num_trials(plan, state)
