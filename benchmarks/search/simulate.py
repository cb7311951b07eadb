"""Simulate sweeps over a table: the product's own director, proposers and pruner, with a simulated clock.

Several workers take what the director hands out. An epoch takes as long as the recorded images passed say, and the
director learns of it when it ends; so trials overtake each other as they do on machines. Schedulers that pause trials
are simulated by keeping a trial's report back until it may continue: the director then sees a slow trial.
"""

from __future__ import annotations

import heapq
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.search.table import Floats, Objective
from orchestrator.planning.sweep_plan import Params, SweepPlan
from orchestrator.sweep_folder.events import DriverStarted
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.records import Handout, TrialReport, TrialState
from orchestrator.trials.director import Director
from orchestrator.trials.pruner import Pruner
from training.config.run import Scalar
from training.metric_names import VAL_MAP

# Journals of simulated sweeps need no disk, which would take most of the time.
_MEMORY = Path("/dev/shm")


class Function(Protocol):
    """What simulated trials are measured by; a table is one."""

    def truth(self, params: Mapping[str, Scalar]) -> float:
        """Return the true quality of a point in percent."""

    def curve(self, params: Mapping[str, Scalar], generator: np.random.Generator) -> Floats:
        """Return the score of every epoch of one run."""

    def seconds(self, params: Mapping[str, Scalar]) -> Floats:
        """Return the seconds of every epoch."""


class Scheduler(Protocol):
    """What a scheduler under test decides; the product's :class:`Pruner` is one that pauses nothing."""

    def started(self, trial: int, params: Params) -> None:
        """Learn of a trial before its first epoch."""

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        """Return whether a trial ends after this report."""

    def pauses(self, trial: int, epoch: int, value: float) -> bool:
        """Return whether a trial gives its worker away after this epoch, before its report is processed."""

    def resume(self, nothing_new: bool, running: int) -> int | None:
        """Return a paused trial that may continue now.

        Args:
            nothing_new: Whether no new trial is left to start.
            running: How many trials are under way.
        """


class Stopping(Pruner):
    """The product's pruner as a scheduler: it stops trials and pauses none."""

    def started(self, trial: int, params: Params) -> None:
        """Nothing to learn."""

    def pauses(self, trial: int, epoch: int, value: float) -> bool:
        """Return False."""
        return False

    def resume(self, nothing_new: bool, running: int) -> int | None:
        """Return None."""
        return None


@dataclass
class Outcome:
    """One simulated sweep.

    Attributes:
        costs, chosen: For every trial that became the best so far: the worker seconds spent until its end, by all
            trials, and its true quality.
        cost: Worker seconds of all trials.
        wall: Seconds from start to end.
        final: True quality of the trial that the sweep chooses.
        recall: Share of the three truly best of its trials that ran to their end.
    """

    costs: list[float] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)
    cost: float = 0.0
    wall: float = 0.0
    final: float = float("nan")
    recall: float = 0.0


def simulate(
    plan: SweepPlan,
    objective: Objective,
    seed: int,
    make_scheduler: Callable[[SweepPlan], Scheduler] = Stopping,
) -> Outcome:
    """Run one sweep of a plan over a table.

    Args:
        plan: Its search seed and its number of workers included.
        objective: The table.
        seed: Seed of the noise: which recorded seed, or which deviation, each trial gets.
        make_scheduler: Makes the scheduler that replaces the product's.
    """
    with run_clock(plan, objective, seed, make_scheduler) as (clock, journal):
        return _summarise(clock, journal)


@contextmanager
def run_clock(
    plan: SweepPlan, objective: Function, seed: int, make_scheduler: Callable[[SweepPlan], Scheduler]
) -> Iterator[tuple[Clock, Journal]]:
    """Run one sweep as :func:`simulate` does, and yield what is known of it while its journal exists."""
    with _director(plan) as (director, journal):
        scheduler = make_scheduler(plan)
        director._pruner = scheduler  # type: ignore[assignment]
        clock = Clock(plan, objective, director, scheduler, np.random.default_rng((seed, plan.search_seed)))
        clock.run()
        yield clock, journal


class Clock:
    """Hands out trials to workers and lets time pass from one end of an epoch to the next."""

    def __init__(
        self,
        plan: SweepPlan,
        objective: Function,
        director: Director,
        scheduler: Scheduler,
        generator: np.random.Generator,
    ) -> None:
        self.objective, self.outcome = objective, Outcome()
        self.handouts: dict[int, Handout] = {}
        self._plan, self._director, self._scheduler, self._generator = plan, director, scheduler, generator
        self._curves: dict[int, Floats] = {}
        self._seconds: dict[int, Floats] = {}
        self._paused: dict[int, int] = {}
        self._reported: dict[int, int] = {}
        self._events: list[tuple[float, int, int, int]] = []
        self._order = itertools.count()
        self._free = plan.concurrency
        self._now = 0.0
        self._best = -np.inf

    def run(self) -> None:
        """Run until no trial is left."""
        self._fill()
        while self._events:
            self._now, _, trial, epoch = heapq.heappop(self._events)
            self._end_epoch(trial, epoch)
            self._fill()
        for trial, epoch in sorted(self._paused.items()):
            self._report(trial, epoch)
        self.outcome.wall = self._now

    def _fill(self) -> None:
        """Give every free worker something to do."""
        while self._free:
            handout = None
            resumed = self._scheduler.resume(False, len(self._events))
            if resumed is None:
                handout = self._director.next_trial()
            if handout is None and resumed is None:
                resumed = self._scheduler.resume(True, len(self._events))
            if resumed is not None:
                epoch = self._paused.pop(resumed)
                if self._report(resumed, epoch):
                    self._free -= 1
                    self._begin_epoch(resumed, epoch + 1)
            elif handout is not None:
                self._free -= 1
                self._take(handout)
            else:
                return

    def _take(self, handout: Handout) -> None:
        known = self._reported.get(handout.trial, 0)
        if known:  # it was set aside, and continues
            self._begin_epoch(handout.trial, known + 1)
            return
        self.handouts[handout.trial] = handout
        self._curves[handout.trial] = self.objective.curve(handout.params, self._generator)
        self._seconds[handout.trial] = self.objective.seconds(handout.params)
        self._scheduler.started(handout.trial, dict(handout.params))
        self._begin_epoch(handout.trial, 1)

    def _begin_epoch(self, trial: int, epoch: int) -> None:
        took = float(self._seconds[trial][epoch - 1])
        self.outcome.cost += took
        heapq.heappush(self._events, (self._now + took, next(self._order), trial, epoch))

    def _end_epoch(self, trial: int, epoch: int) -> None:
        value = float(self._curves[trial][epoch - 1])
        if epoch < self._plan.epochs and self._scheduler.pauses(trial, epoch, value):
            self._paused[trial] = epoch
            self._free += 1
        elif self._report(trial, epoch):
            self._begin_epoch(trial, epoch + 1)
        else:
            self._free += 1

    def _report(self, trial: int, epoch: int) -> bool:
        value = float(self._curves[trial][epoch - 1])
        self._reported[trial] = epoch
        goes_on = self._director.report(trial, TrialReport(epoch, {VAL_MAP: value}))
        if epoch == self._plan.epochs and (score := float(self._curves[trial].max())) > self._best:
            self._best = score
            self.outcome.costs.append(self.outcome.cost)
            self.outcome.chosen.append(self.objective.truth(self.handouts[trial].params))
        return goes_on


def _summarise(clock: Clock, journal: Journal) -> Outcome:
    outcome, records = clock.outcome, journal.state.records
    truths = {trial: clock.objective.truth(handout.params) for trial, handout in clock.handouts.items()}
    top = sorted(truths, key=lambda trial: -truths[trial])[:3]
    outcome.recall = sum(records[trial].state is TrialState.COMPLETE for trial in top) / len(top)
    outcome.final = outcome.chosen[-1]
    return outcome


@contextmanager
def _director(plan: SweepPlan) -> Iterator[tuple[Director, Journal]]:
    folder = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        with Journal.open(folder / "journal.jsonl") as journal:
            journal.append(DriverStarted(plan.id, "simulated", 0, plan.num_trials, {}))
            yield Director(plan, journal), journal
    finally:
        shutil.rmtree(folder, ignore_errors=True)
