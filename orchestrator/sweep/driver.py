"""Run a sweep: start it, resume it, extend it.

Each of these replays the journal and starts Ray Tune from nothing; nothing is unpickled. The driver may die at any
moment, even from kill -9. Whatever the next driver needs is therefore in the journal and the checkpoints: nothing is
kept only in memory, and nothing has to be written at the end.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import time
from concurrent.futures import Future, wait
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from orchestrator.background import in_background, quick_handover
from orchestrator.cluster.nodes import require_shared
from orchestrator.cluster.processes import end_orphans
from orchestrator.cluster.session import quieten, start_ray, stop_ray
from orchestrator.cluster.size import require_room
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import locate, sweep_dir
from orchestrator.planning.capacity import require_room_here
from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.provenance import describe_differences, differences
from orchestrator.signals import StopSignals
from orchestrator.sweep.checkpoint_cleaner import CheckpointCleaner
from orchestrator.sweep.extension import NO_EXTENSION, Extension, change_limit, extending, require_higher_limit
from orchestrator.sweep.guard import Guard, give_up
from orchestrator.sweep.hooks import DRAIN_S, Hooks, NoTracker, TrackerLike
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep.origin import collect_provenance
from orchestrator.sweep.progress import Progress
from orchestrator.sweep_folder.backup import JournalBackup
from orchestrator.sweep_folder.events import DriverEnded, DriverStarted, SweepPlanned
from orchestrator.sweep_folder.index import create_sweep, require_search
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import TrialRecord, best
from orchestrator.sweep_folder.spool import spool_artifacts, write_error
from orchestrator.sweep_folder.state import SweepState
from orchestrator.sweep_folder.traces import require_no_gap
from orchestrator.tracking.reading import read_sweep
from orchestrator.writable import require_writable
from training.errors import DatasetError, WeightsError

if TYPE_CHECKING:
    from orchestrator.trials.director import Director

T = TypeVar("T")

FINISHED, INTERRUPTED, FAILED = "FINISHED", "INTERRUPTED", "FAILED"
_SCRATCH_DIR = ".ray"
# How soon Ctrl-C is noticed while something starts.
_LOOK_S = 0.2


@dataclass(frozen=True)
class SweepOutcome:
    """The result of one driver's run.

    Attributes:
        state: ``FINISHED``, or ``INTERRUPTED`` by Ctrl-C or SIGTERM.
        seconds: Time from the driver's start to its end.
        tracking_problem, backup_problem: Why MLflow or the backup is incomplete, if it is.
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


def run_sweep(plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
    """Run a new sweep, a single training, or the final runs of a promotion, to its end.

    Args:
        plan: What to run.
        options: How to run it.

    Raises:
        UserError: The sweep folder or the cache cannot be written.
        ConfigError, DatasetError, WeightsError: The data or the model cannot be loaded.
        OrchestratorError: Ray cannot be started, or the disk is full. If the sweep had begun, it can be resumed;
            otherwise nothing is left behind.
    """
    require_writable(options.address)
    # Stored in the plan, because a driver that is killed while it starts has written no event yet.
    if options.backup is not None:
        plan = replace(plan, backup=options.backup)
    folder = create_sweep(plan.id, plan.to_json())
    try:
        return _drive(plan, options)
    # Not on KeyboardInterrupt: a sweep that was stopped during start-up is resumed like any other.
    except (ValueError, DatasetError, WeightsError, OrchestratorError, OSError):
        if replay(folder / JOURNAL_FILE).driver_state is None:
            shutil.rmtree(folder, ignore_errors=True)  # it never began, so its name stays free
        raise


def resume(sweep_id: str, options: DriveOptions = DEFAULT) -> SweepOutcome:
    """Continue what an interrupted or killed driver left unfinished; a finished sweep is not changed.

    Raises:
        UserError: No such sweep exists, another driver is running it, or the commit, the lock or the data changed.
        OrchestratorError: As :func:`run_sweep`; or the journal is broken.
    """
    plan, state = read_sweep(sweep_id)
    _require_no_gap(plan, state, options)
    return _drive(plan, options, change_limit(plan, state, options.max_gpu_hours))


def extend(
    sweep_id: str, num_more: int, options: DriveOptions = DEFAULT, *, max_gpu_hours: float | None = None
) -> SweepOutcome:
    """Add trials to a sweep or raise its limit, and run what is missing.

    Args:
        sweep_id: The sweep.
        num_more: How many trials to add; 0 only raises the limit.
        options: How to run them.
        max_gpu_hours: The new limit; None leaves it as it is.

    Raises:
        UserError: Nothing is added, it is not a sweep, every point was tried, or the limit is in the way; or as resume.
        OrchestratorError: As :func:`resume`.
    """
    if num_more < (1 if max_gpu_hours is None else 0):
        raise UserError(f"--trials must be at least +1, but got {num_more}.")
    plan, state = read_sweep(sweep_id)
    require_search(plan)
    require_higher_limit(plan, state, max_gpu_hours)
    num_trials = state.total(plan.num_trials)
    if plan.num_points is not None and num_trials + num_more > plan.num_points:
        raise UserError(
            f"--trials +{num_more} is more than the sweep can try: it has {num_trials} trials, and its space has "
            f"{plan.num_points} points. Start a sweep over a larger space."
        )
    _require_no_gap(plan, state, options, change := Extension(num_more, max_gpu_hours))
    return _drive(plan, options, change)


def _require_no_gap(
    plan: SweepPlan, state: SweepState, options: DriveOptions, change: Extension = NO_EXTENSION
) -> None:
    # After a restore from a backup, what the backup lacked is known to be missing.
    if not (options.allow_changed or options.allow_gaps):
        require_no_gap(plan, state, f"orchestrator {_repeat(plan, options, change)}")


def _repeat(plan: SweepPlan, options: DriveOptions, change: Extension) -> str:
    """Return the command that makes the same request, in spite of changed conditions."""
    # A plain `resume` would drop the new trials.
    verb = f"extend {plan.id}{change.flags}" if change else f"resume {plan.id}"
    return f"{verb} --allow-changed{options.repeated_flags()}"


def _drive(plan: SweepPlan, options: DriveOptions, change: Extension = NO_EXTENSION) -> SweepOutcome:
    require_writable(options.address)
    folder, started = sweep_dir(plan.id), time.monotonic()
    with ExitStack() as stack:
        # The lease is taken before the journal is opened, and released after everything else has ended.
        lease = stack.enter_context(Lease(folder, steal=options.steal_lease))
        signals = stack.enter_context(StopSignals(partial(give_up, plan, options)))
        journal = stack.enter_context(Journal.open(folder / JOURNAL_FILE, lease))
        stack.enter_context(quick_handover())
        # Stop at once if another driver takes the sweep.
        lease.on_lost = signals.send_first
        stack.callback(setattr, lease, "on_lost", lambda: None)
        # A killed driver may have left Ray processes behind, which would keep training alongside ours.
        end_orphans(folder)
        # The journal has the latest choice; the plan has the choice of a driver killed before its first event.
        known = journal.state.backup or plan.backup
        options = replace(options, backup=options.backup or (known and locate(known, plan.id)))
        backup = _make_backup(plan, journal, lease, options)
        if backup is not None:
            stack.enter_context(backup)
        state, problem = FINISHED, None
        # A finished sweep does not need Ray: starting it would waste seconds.
        if change or not journal.state.is_done(plan.num_trials):
            progress = Progress(plan, journal.state, shown=options.progress)
            driver = _Driver(plan, journal, signals, progress, options)
            progress.watch("MLflow", lambda: driver.tracker.problem)
            if backup:
                progress.watch("the backup", lambda: backup.problem)
            state = driver.run(change)
            problem = driver.tracking_problem
        else:
            problem = _settle(plan, journal, options.hooks)
        # Only now is the journal final, so only now can the backup be complete.
        records = tuple(record for _, record in sorted(journal.state.records.items()))
        backup_problem = None if backup is None or backup.stop() else backup.problem
        return SweepOutcome(plan, records, state, time.monotonic() - started, problem, backup_problem)


def _make_backup(plan: SweepPlan, journal: Journal, lease: Lease, options: DriveOptions) -> JournalBackup | None:
    if options.backup is None:
        return None
    return JournalBackup(plan, journal, lease, options.backup, steal=options.steal_lease)


def _settle(plan: SweepPlan, journal: Journal, hooks: Hooks) -> str | None:
    """Finish the work of a driver that was killed after its last trial: record its end, and complete MLflow.

    Returns:
        Why MLflow is still incomplete, or None.
    """
    if journal.state.driver_state != FINISHED:
        journal.append(DriverEnded(FINISHED, settled=True))
    tracker = hooks.make_tracker(plan, journal.path)
    tracker.start()
    return None if tracker.stop(DRAIN_S) else tracker.problem


class _Driver:
    """Runs one driver from start to end."""

    def __init__(
        self, plan: SweepPlan, journal: Journal, signals: StopSignals, progress: Progress, options: DriveOptions
    ) -> None:
        self.tracking_problem: str | None = None
        self._plan, self._journal, self._signals, self._progress = plan, journal, signals, progress
        # Trials read the data where they are now; MLflow keeps the place that the plan has.
        self._placed = locate_data(plan)
        self._folder, self._options, self._hooks = sweep_dir(plan.id), options, options.hooks
        self.tracker: TrackerLike = NoTracker()
        self._cleaner = CheckpointCleaner(plan, journal.state)
        self._guard = Guard(plan, self._folder, options, signals)

    def run(self, change: Extension) -> str:
        """Run until the sweep is finished, interrupted or failed, and leave nothing running; return its state."""
        if self._options.address is None:
            require_room_here(self._plan)
        # Leaving the stack ends what was started in the opposite order, however the run ended.
        with self._progress:
            try:
                with extending(self._plan, self._journal, change), ExitStack() as stack:
                    self._start(stack, change)
                    self._run_trials()
            except KeyboardInterrupt:
                if (loss := self._guard.describe_loss()) is not None:
                    raise OrchestratorError(loss) from None
                self._journal.require_ours()
                return INTERRUPTED
        return FINISHED

    def _start(self, stack: ExitStack, change: Extension) -> None:
        """Start everything that runs alongside the trials. Slow parts start first and run in parallel."""
        quieten()
        config = trial_config(self._placed, {})
        self.tracker = self._hooks.make_tracker(self._plan, self._journal.path)
        # Registered before Ray, so that tracking stops after Ray: the last trials' events are then written too.
        stack.callback(self._stop_tracking)
        self.tracker.start()
        inputs = in_background(lambda: self._hooks.prepare_inputs(config, self._progress.say))
        # Registered before the start: a start that fails half-way also leaves processes to end.
        stack.callback(stop_ray)
        self._signals.check()
        self._progress.enter_phase("starting Ray")
        self._start_ray()
        self._signals.check()
        stack.callback(self._guard.stop)
        self._guard.start(self._progress)
        self._progress.enter_phase("preparing the data")
        current = collect_provenance(self._plan, self._wait(inputs))
        self._progress.enter_phase("starting the trials")
        if not self._options.allow_changed:
            self._refuse_changed(current, change)
        self._announce(current)
        # From here on the journal says that a driver runs, so it must also say how it ended.
        stack.push(self._end)
        stack.callback(self._cleaner.stop)
        self._cleaner.start()

    def _start_ray(self) -> None:
        address, resources = self._options.address, self._plan.resources
        # Each trial takes a slot per worker; Ray must be started with as many CPUs as all of them need.
        slots = self._plan.concurrency * resources.workers
        start_ray(
            self._folder,
            address=address,
            num_cpus=slots * resources.cpus_per_worker,
            num_gpus=math.ceil(slots * resources.gpus_per_worker),
            driver_modules=["orchestrator.trials.director", "orchestrator.trials.tune"],
        )
        # Cluster nodes share no disk with us unless the plan names one.
        if address is not None:
            require_room(self._plan.resources)
            require_shared(self._plan)

    def _refuse_changed(self, current: dict[str, str], change: Extension) -> None:
        changed = differences(self._journal.state.provenance, current)
        if changed:
            raise UserError(
                f"{self._plan.id} was started under other conditions: {describe_differences(changed)}. Restore them, "
                f"or continue with the present ones: orchestrator {_repeat(self._plan, self._options, change)}"
            )

    def _announce(self, current: dict[str, str]) -> None:
        num_trials = self._journal.state.total(self._plan.num_trials)
        if self._journal.state.plan is None:
            self._journal.append(SweepPlanned(json.loads(self._plan.to_json())))
        self._journal.append(
            DriverStarted(
                self._plan.id, socket.gethostname(), os.getpid(), num_trials, current, backup=self._options.backup
            )
        )

    def _run_trials(self) -> None:
        # Tune and Optuna take seconds to import; Ray's own processes start in the meantime.
        from orchestrator.trials.director import Director

        director = Director(
            self._plan,
            self._journal,
            on_artifacts=self._keep_artifacts,
            on_failure=self._keep_traceback,
            on_end=self._cleaner.trial_ended,
            say=self._progress.say,
        )
        self._guard.watch_waiting(director.find_waiting)
        # A driver may have been killed between the last epoch of a trial and its end.
        director.record_missed_ends()
        self._progress.enter_phase("")
        try:
            with self._signals.interrupting():
                self._run_over_tune(director)
        finally:
            self._guard.note_end()
            self._progress.enter_phase("ending")
            # Ray Tune's own files. Nothing is ever read from them: the journal is the only source of truth.
            with suppress(OrchestratorError):  # not those of a driver that has taken the sweep
                self._journal.require_ours()
                shutil.rmtree(self._folder / _SCRATCH_DIR, ignore_errors=True)

    def _run_over_tune(self, director: Director) -> None:
        from orchestrator.trials.actor import make_trainable, make_training_run
        from orchestrator.trials.placement import runs_over_train
        from orchestrator.trials.tune import run_trials
        from orchestrator.trials.workers import make_train_trainable

        make_run = self._hooks.make_run
        # Ray Train costs about 25 s per trial, so only trials with several workers use it.
        over_train = runs_over_train(self._plan)
        run_trials(
            self._plan,
            make_train_trainable(self._placed, make_run)
            if over_train
            else make_trainable(self._placed, make_run or make_training_run),
            director,
            scratch=self._folder / _SCRATCH_DIR,
            has_room=self._cleaner.has_room,
            interrupted=lambda: self._signals.received,
            on_step=self._guard.note_step,
        )

    def _keep_artifacts(self, trial: int, files: dict[str, bytes]) -> None:
        spool_artifacts(self._plan.id, trial, files)

    def _keep_traceback(self, trial: int, details: str) -> None:
        write_error(self._plan.id, trial, details)

    def _wait(self, future: Future[T]) -> T:
        """Return a future's result, or stop waiting once a signal arrives."""
        # Not `result(timeout=...)`: its time-out looks like one that the work itself raised.
        while not wait([future], timeout=_LOOK_S).done:
            self._signals.check()
        return future.result()

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An exit by exception still writes an end event; only a kill leaves none.
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        state = FINISHED if kind is None else INTERRUPTED if interrupted else FAILED
        # If it cannot be written either, the first error says why.
        with suppress(OrchestratorError) if state == FAILED else nullcontext():
            self._journal.append(DriverEnded(state))

    def _stop_tracking(self) -> None:
        self._progress.enter_phase("completing MLflow")
        # A sweep never fails because of MLflow: the problem is reported, and `browse` or a resume writes the rest.
        if not self.tracker.stop(DRAIN_S):
            self.tracking_problem = self.tracker.problem
