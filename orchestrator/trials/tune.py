"""Ray Tune as the hands of a :class:`~orchestrator.trials.director.Director`: a searcher that hands out, a scheduler
that brings back.

Tune decides nothing and keeps nothing. It never tries a trial again by itself either: a trial whose process died is
handed out anew by the director, as after a resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.signals import Interrupted
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT
from orchestrator.trials.deaths import MemoryKills, describe_death, find_address
from orchestrator.trials.director import Director
from orchestrator.trials.placement import Undertaker, group_name, runs_over_train

_ABSENCE_S = 60.0
"""Tune asks what to do many times a second: a driver that was not asked for so long was asleep or stopped."""


class _Finished(BaseException):
    """Ends Tune without its farewell: snapshots of what the journal has, and a search for result files that there are
    none of.
    """


class _Escape(BaseException):
    """Carries an exception of ours through Tune, which would turn it into a text."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def run_trials(
    plan: SweepPlan,
    trainable: type[tune.Trainable],
    director: Director,
    *,
    scratch: Path,
    has_room: Callable[[], bool] = lambda: True,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Run all that the director hands out; return when it has nothing left.

    Args:
        plan: The sweep.
        trainable: As :func:`orchestrator.trials.actor.make_trainable` or
            :func:`orchestrator.trials.workers.make_train_trainable` gives it.
        director: Decides.
        scratch: A folder for what Tune wants to write; nothing in it is needed.
        has_room: Whether one more trial fits on the disk; while not, none is handed out.
        interrupted: Asked at every step.

    Raises:
        Interrupted: ``interrupted`` said so. Actors are left as they are, for the end of Ray to end.
        OrchestratorError: The journal cannot be written, or no trial fits on the disk.
    """
    try:
        tune.run(
            trainable,
            name=plan.id,
            config={},
            num_samples=-1,
            search_alg=_HandoutSearcher(director, has_room),
            scheduler=_ReportScheduler(plan, director, interrupted),
            max_concurrent_trials=plan.concurrency,
            reuse_actors=True,
            storage_path=str(scratch),
            trial_dirname_creator=lambda trial: trial.trial_id,
            raise_on_failed_trial=False,
            verbose=0,
        )
    except _Finished:
        return
    except _Escape as escape:
        raise escape.error from None


class _HandoutSearcher(Searcher):
    """Gives Tune what the director hands out."""

    def __init__(self, director: Director, has_room: Callable[[], bool]) -> None:
        super().__init__()
        self._director, self._has_room = director, has_room

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        with _escaping():
            if self._director.finished:
                raise _Finished
            handout = self._director.next_trial() if self._may_hand_out() else None
        return None if handout is None else {HANDOUT: handout}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler was told already."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: the journal has it."""

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its journal")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its journal")

    def _may_hand_out(self) -> bool:
        if self._director.goes_on_next or self._has_room():
            return True
        if self._director.num_running:
            return False
        raise OrchestratorError(
            "checkpoints of one more trial must fit under the sweep's cap, but they do not, and no trial is left that "
            "could make room. "
            "Use a space with a larger budget.cap_gib."
        )


class _ReportScheduler(FIFOScheduler):
    """Brings the director what the trials report, does as it says, and tells it of deaths."""

    def __init__(self, plan: SweepPlan, director: Director, interrupted: Callable[[], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sweep_id, self._over_train = plan.id, runs_over_train(plan)
        self._director, self._interrupted, self._looked = director, interrupted, time.time()
        self._undertaker, self._memory_kills = Undertaker(), MemoryKills()

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        report: TrialReport = result[REPORT]
        with _escaping():
            if report.cause is Cause.LOST:
                report = self._blame_memory(report)
            goes_on = self._director.report(_handout(trial).trial, report)
        report.artifacts.clear()  # Tune keeps every trial's last result to the end
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        handout, text = _handout(trial), _read_death(trial)
        message, cause = describe_death(text)
        report = TrialReport(cause=cause, message=message, details=text)
        with _escaping():
            if cause is Cause.LOST:
                report = self._blame_memory(report)
            self._director.lose(handout.trial, report.message, report.cause or cause)
            self._undertaker.bury(group_name(self._sweep_id, handout))

    def _blame_memory(self, lost: TrialReport) -> TrialReport:
        """Return the report of a process that died, out of memory if its node's kernel killed one for that."""
        if not self._memory_kills.grew(find_address(lost.details)):
            return lost
        return replace(lost, cause=Cause.OOM, message="the kernel killed it: its control group was out of memory")

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Called at every step. What Tune is to run next it finds itself, without looking at all trials there ever
        were.
        """
        if self._interrupted():
            raise Interrupted
        with _escaping():
            self._undertaker.look()
            self._memory_kills.look()
        self._note_absence()
        self._kill_overdue(tune_controller)
        return None

    def _note_absence(self) -> None:
        now = time.time()
        if now - self._looked > _ABSENCE_S:
            self._director.note_absence(now - self._looked)
        self._looked = now

    def _kill_overdue(self, tune_controller: TuneController) -> None:
        for trial in list(tune_controller.get_live_trials()):  # type: ignore[no-untyped-call]
            actor, number = trial.temporary_state.ray_actor, _handout(trial).trial
            if actor is None or trial.status != Trial.RUNNING:
                continue
            if (
                not self._over_train
            ):  # what watches over workers runs before they do, and they say themselves when they are there
                self._director.note_work(number)
            if self._director.is_overdue(number):
                ray.kill(actor)


@contextmanager
def _escaping() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Escape(error) from error


def _handout(trial: Trial) -> Handout:
    handout: Handout = trial.config[HANDOUT]
    return handout


def _read_death(trial: Trial) -> str:
    """Return what Ray says of a process that died, from the file that Tune has just written."""
    try:
        return Path(str(trial.error_file)).read_text(encoding="utf-8").rpartition("Failure #")[2]
    except OSError:
        return ""
