"""Runs a sweep's trials on Ray Tune: connects Tune's searcher, stopper and callbacks to the sweep's director.

Tune decides nothing and stores nothing: which trial runs next, when one stops and what follows a death are decided
by the director, from the journal. Tune never retries a trial either; the director hands it out again.

We use the public interface of Tune 2.60 as far as possible. It lacks six things:

- The exception that ended a trial. ``Callback.on_trial_error`` gets only the trial: ``ray_compat.read_trial_error``.
- An end to a trial that hangs. A stop waits for the running epoch, so we kill the trial's process, whose handle only
  Tune has: ``ray_compat.trial_actor``.
- A scheduler that does not look at every trial so far at every step: :class:`_FirstComeScheduler`.
- An end without a snapshot of every trial, which ``tune.run`` always writes after ``Searcher.FINISHED``: 2.4 s for 300
  trials on a busy machine, growing with their number, for a file that nobody reads. The searcher therefore ends Tune
  with an ordinary exception, on which Tune cleans up and writes nothing.
- An end within seconds after Ctrl-C. After ``Stopper.stop_all`` or a signal to its own handler, Tune waits up to 15 s
  for trials in the middle of an epoch, and calls Ray's processes, which a SIGTERM to the process group ends as well. So
  our signal handler raises KeyboardInterrupt wherever Tune is at that moment, as Python's own handler does
  (:meth:`orchestrator.signals.StopSignals.interrupting`); ``stop_all`` only covers one that got lost in a library.
- An option that keeps ``AWS_SECRET_ACCESS_KEY`` out of the trials' runtime environments, which Ray logs:
  ``ray_compat.keep_credentials_local``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.ray_compat import keep_credentials_local, read_trial_error, trial_actor
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT
from orchestrator.trials.deaths import MemoryKills, describe_death, find_address
from orchestrator.trials.director import Director
from orchestrator.trials.placement import DeadTrials, group_name, runs_over_train

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_ABSENCE_S = 60.0
"""Tune takes several steps a second: a driver that took none for this long was asleep or suspended."""
_LOOK_S = 1.0
"""How often to look for trials that hang: Tune takes a step per result, and each look goes through all trials."""


def run_trials(
    plan: SweepPlan,
    trainable: type[tune.Trainable],
    director: Director,
    *,
    scratch: Path,
    has_room: Callable[[], bool] = lambda: True,
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Run every trial that the director hands out; return when it has none left.

    Args:
        plan: The sweep.
        trainable: The result of :func:`orchestrator.trials.actor.make_trainable` or
            :func:`orchestrator.trials.workers.make_train_trainable`.
        director: Makes the decisions.
        scratch: Folder for Tune's files; none of them is needed later.
        has_room: Whether the disk has room for one more trial; otherwise no trial starts.
        interrupted: Whether the user asked to stop; called at every step.
        on_step: Called at every step, several times a second.

    Raises:
        KeyboardInterrupt: ``interrupted`` returned True.
        OrchestratorError: The journal cannot be written, or no trial fits on the disk.
    """
    trials = _Trials(plan, director, has_room)
    keep_credentials_local()
    with suppress(_Finished):
        tune.run(
            trainable,
            name=plan.id,
            config={},
            # Without a limit: the searcher knows when the sweep is over.
            num_samples=-1,
            search_alg=_HandoutSearcher(trials),
            scheduler=_FirstComeScheduler(),  # type: ignore[no-untyped-call]
            stop=_ReportStopper(trials, interrupted),
            callbacks=[_StepCallback(trials, on_step)],
            max_concurrent_trials=plan.concurrency,
            # A new process would have to import torch, which takes seconds.
            reuse_actors=True,
            storage_path=str(scratch),
            trial_dirname_creator=lambda trial: trial.trial_id,
            # What a failed trial means for the sweep is for the director to say.
            raise_on_failed_trial=False,
            verbose=0,
        )
    trials.raise_error()
    if interrupted():
        raise KeyboardInterrupt


class _Finished(Exception):  # noqa: N818 - no error
    """Ends Tune when the director has nothing left."""


class _Trials:
    """The trials that Tune is handling, by Tune's ids; shared by Tune's hooks."""

    def __init__(self, plan: SweepPlan, director: Director, has_room: Callable[[], bool]) -> None:
        self._sweep_id, self._over_train = plan.id, runs_over_train(plan)
        self._fewer = "" if plan.screen_epoch is None else ", or set fewer aside: --set scheduler.keep=..."
        self._director, self._has_room = director, has_room
        self._handouts: dict[str, Handout] = {}
        self._running: dict[str, Trial] = {}
        self._dead, self._memory_kills = DeadTrials(), MemoryKills()
        self._last_step, self._next_look = time.time(), 0.0
        self._error: Exception | None = None

    def hand_out(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of a new Tune trial, or None while none may start.

        Raises:
            _Finished: The director has nothing left.
            OrchestratorError: As :func:`run_trials`.
        """
        if self._director.finished:
            raise _Finished
        handout = self._director.next_trial() if self._may_hand_out() else None
        if handout is None:
            return None
        self._handouts[trial_id] = handout
        return {HANDOUT: handout}

    def started(self, trial: Trial) -> None:
        """Record that a trial has its process."""
        self._running[trial.trial_id] = trial
        # Over Ray Train, this process runs long before the workers do; they report themselves when they are ready.
        if not self._over_train:
            self._director.note_work(self._handouts[trial.trial_id].trial)

    def report(self, trial_id: str, report: TrialReport) -> bool:
        """Pass a report to the director and return whether the trial continues."""
        try:
            if report.cause is Cause.LOST:
                report = self._blame_memory(report)
            goes_on = self._director.report(self._handouts[trial_id].trial, report)
        except Exception as error:
            return self._keep_error(error)
        report.artifacts.clear()  # Tune keeps the last result of every trial until the end
        return goes_on

    def ended(self, trial: Trial) -> None:
        """Forget a trial that ended with a report."""
        self._running.pop(trial.trial_id, None)
        self._handouts.pop(trial.trial_id, None)

    def died(self, trial: Trial) -> None:
        """Tell the director that the process of a trial died."""
        self._running.pop(trial.trial_id, None)
        handout = self._handouts.pop(trial.trial_id, None)
        if handout is None:
            return  # it had ended, and Tune failed to stop it
        death = read_trial_error(trial)
        message, cause = describe_death(death)
        report = TrialReport(cause=cause, message=message, details=str(death or ""))
        try:
            if cause is Cause.LOST:
                report = self._blame_memory(report)
            self._director.lose(handout.trial, report.message, report.cause or cause)
            self._dead.add(group_name(self._sweep_id, handout))
        except Exception as error:
            self._keep_error(error)

    def step(self) -> None:
        """Do whatever is due; called several times a second."""
        self.raise_error()
        self._dead.end()
        self._memory_kills.look()
        # Not time.monotonic(), which stands still while the machine sleeps.
        now = time.time()
        if now - self._last_step > _ABSENCE_S:
            self._director.note_absence(now - self._last_step)
        self._last_step = now
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            self._kill_overdue()

    def _kill_overdue(self) -> None:
        for trial_id, trial in self._running.items():
            actor = trial_actor(trial)
            if actor is not None and self._director.is_overdue(self._handouts[trial_id].trial):
                ray.kill(actor)

    def raise_error(self) -> None:
        """Raise the error that a report or a death led to, if one did."""
        if self._error is not None:
            raise self._error

    def _keep_error(self, error: Exception) -> bool:
        # If it were raised where a result is handled, Tune would turn it into a TuneError with its traceback
        # as text. Raised at the next step, it leaves tune.run unchanged.
        self._error = self._error or error
        return False

    def _may_hand_out(self) -> bool:
        if self._director.continues_next or self._has_room():
            return True
        if self._director.num_running:
            return False
        raise OrchestratorError(
            "The checkpoints of one more trial do not fit under the sweep's cap, and no running trial is left that "
            f"could free space. Start a sweep with a larger one: --set budget.cap_gib=...{self._fewer}"
        )

    def _blame_memory(self, lost: TrialReport) -> TrialReport:
        """Return the report of a dead process, with OOM as its cause if its node's kernel ran out of memory."""
        if not self._memory_kills.grew(find_address(lost.details)):
            return lost
        return replace(lost, cause=Cause.OOM, message="the kernel killed it: its control group was out of memory")


class _HandoutSearcher(Searcher):
    """Gives Tune the trials that the director hands out."""

    def __init__(self, trials: _Trials) -> None:
        super().__init__()
        self._trials = trials

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return self._trials.hand_out(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the director knows it from the report."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: it is in the journal."""

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its journal")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its journal")


class _ReportStopper(Stopper):
    """Passes the trials' reports to the director, and stops the trials that it wants stopped."""

    def __init__(self, trials: _Trials, interrupted: Callable[[], bool]) -> None:
        self._trials, self._interrupted = trials, interrupted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return not self._trials.report(trial_id, result[REPORT])

    def stop_all(self) -> bool:
        return self._interrupted()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into a snapshot that nobody reads; the journal could not be pickled


class _StepCallback(Callback):
    """Reports starts, ends and deaths to the director, and the passing of time."""

    def __init__(self, trials: _Trials, on_step: Callable[[], None]) -> None:
        self._trials, self._on_step = trials, on_step

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._on_step()
        self._trials.step()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._trials.started(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._trials.ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._trials.died(trial)


class _FirstComeScheduler(FIFOScheduler):
    """Leaves the order to Tune, which keeps a queue of the trials that wait.

    FIFOScheduler searches the list of all trials so far at every step: with 10,000 trials, that costs more than
    everything else in Tune.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return None
