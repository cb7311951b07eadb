"""Decides what every trial of a sweep does next, independently of Ray.

Its caller runs the trials: it asks :meth:`Director.next_trial` for work, and reports the outcome with
:meth:`Director.report` and :meth:`Director.lose`. A kill between any two statements here loses nothing: everything that
a decision depends on is in the journal before it is made, so a new director makes the same decision.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import (
    EpochReported,
    LimitReached,
    TrialEnded,
    TrialLost,
    TrialSetAside,
    TrialStarted,
)
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Cause, Handout, TrialRecord, TrialReport, TrialState, best
from orchestrator.trials.limit import Outlook, PastTrials, describe_limit, project_spending
from orchestrator.trials.over import Search
from orchestrator.trials.overdue import OverdueTrials
from orchestrator.trials.proposers import make_proposer
from orchestrator.trials.pruner import Pruner
from orchestrator.trials.reports import describe_continuation, make_epoch_event, require_metric
from orchestrator.trials.screen import ScreenedTrials
from training.config.run import Scalar
from training.loop.early_stopping import was_stopped
from training.metric_names import TIME_EPOCH_S

MAX_LOSSES = 10
"""A trial whose process dies this often in a row without a new epoch, under one driver, has failed as LOST."""


class Director:
    """Makes the decisions of one driver of one sweep.

    Args:
        plan: The sweep.
        journal: Open for writing, with this driver's ``driver_started`` in it.
        on_artifacts: Called with (trial, files) before the trial's last epoch is in the journal.
        on_failure: Called with (trial, details) before a failed trial's end is in the journal: whoever reads the end
            there finds the traceback.
        on_end: Called after a trial's end is in the journal.
        say: Called with a message for the user about a trial that continues.
    """

    def __init__(
        self,
        plan: SweepPlan,
        journal: Journal,
        *,
        on_artifacts: Callable[[int, dict[str, bytes]], None] = lambda trial, files: None,
        on_failure: Callable[[int, str], None] = lambda trial, details: None,
        on_end: Callable[[TrialRecord], None] = lambda record: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._plan, self._journal = plan, journal
        self._on_artifacts, self._on_failure, self._on_end, self._say = on_artifacts, on_failure, on_end, say
        self._pruner, self._screen = Pruner(plan), ScreenedTrials(plan, journal.state)
        self._proposer = make_proposer(plan, journal.state.records.values())
        self._losses: Counter[int] = Counter()
        self._overdue = OverdueTrials(plan, journal.state.records.values())
        self._exhausted = False
        self._max_hours = journal.state.max_gpu_hours or plan.max_gpu_hours
        self._past = PastTrials(plan, journal.state.records.values())
        self._search = Search(plan, journal.state.records.values())
        self._running: set[int] = set()
        self._best = best(journal.state.records.values(), plan.protocol)
        self._cut = self._replay()
        self._waiting = self._find_waiting()

    def _find_waiting(self) -> list[int]:
        return [record.trial for record in self._journal.state.open_trials() if record.trial not in self._screen.aside]

    def record_missed_ends(self) -> None:
        """Record what a kill kept out of the journal; call this before anything is handed out.

        That is the ends of trials whose latest report was due to be their last, by its epoch or by the pruner; and
        that trials were set aside.
        """
        for record in self._journal.state.open_trials():
            if record.last_epoch >= self._plan.epochs or was_stopped(record.metrics.get(record.last_epoch, {})):
                self._end(record.trial, TrialState.COMPLETE)
            elif record.trial in self._cut:
                self._end(record.trial, TrialState.PRUNED)
        self._waiting = self._find_waiting()
        for trial in self._waiting:
            if self._is_held_up(trial):
                self._set_aside(trial)
        self._waiting = self._find_waiting()
        self._settle_screen()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out or to wait for."""
        if self._journal.state.is_limited and not self._running:
            return True
        return not (self._waiting or self._screen.aside or self._running or self._may_propose())

    @property
    def num_running(self) -> int:
        """Number of trials that are handed out now."""
        return len(self._running)

    @property
    def continues_next(self) -> bool:
        """Whether the next attempt continues a trial, so that its checkpoints need no more room than they have."""
        return self._next_waiting() is not None or (bool(self._waiting) and not self._may_propose())

    def next_trial(self) -> Handout | None:
        """Return the next attempt, at unfinished trials first, then at new ones; None if none may start now.

        Without GPUs, trials share the memory of the machine. A trial that ran out of memory therefore waits until
        nothing else is running and nothing new is left, and then runs alone.
        """
        if self._needs_machine(*self._running) or not self._is_affordable():
            return None
        waiting = self._next_waiting()
        if waiting is not None:
            return self._hand_out_again(waiting)
        # Trials are numbered without gaps, whatever happens to them.
        trial = len(self._journal.state.records)
        if self._may_propose() and (over := self._search.decide(self._journal.state)) is not None:
            self._journal.append(over)
            self._say(f"the search is over: {over.message}")
        proposal = self._proposer.propose(trial) if self._may_propose() else None
        if proposal is None:
            self._exhausted = True
            self._settle_screen()
            return self._hand_out_last()
        return self._hand_out(trial, proposal.params, proposal.origin, 1)

    def report(self, trial: int, report: TrialReport) -> bool:
        """Record a report of a trial's process and return whether the trial continues.

        Raises:
            OrchestratorError: The journal or the checkpoints cannot be written.
        """
        goes_on = not self._is_over(trial) and self._take_report(trial, report)
        self._settle_screen()
        return goes_on

    def _take_report(self, trial: int, report: TrialReport) -> bool:
        if report.storage_full:
            # Every other trial would fail in the same way, so the sweep stops, and a resume hands this one out again.
            raise OrchestratorError(
                f"Trial {trial} cannot write its checkpoint: {report.message}. "
                f"Free some space, then continue: orchestrator resume {self._plan.id}"
            )
        if report.cause is None and report.epoch == 0:
            self.note_work(trial)
            return True
        report = require_metric(report, self._plan.protocol.metric)
        if report.cause is not None:
            self._fail(trial, report.cause, report)
            return False
        return self._take_epoch(trial, report)

    def _take_epoch(self, trial: int, report: TrialReport) -> bool:
        known = self._journal.state.records[trial].last_epoch
        for text in describe_continuation(trial, report, known):
            self._say(text)
        # Before the epoch is in the journal: if this driver is killed in between, the next one hands the trial out
        # again and gets them. Afterwards the trial counts as complete, and nobody asks for them.
        if report.artifacts:
            self._on_artifacts(trial, report.artifacts)
        if not self._journal.append(make_epoch_event(trial, report)):
            self.note_work(trial)
            # A resumed trial reports the epoch of its checkpoint again. If the journal has it, the decision was made
            # then, and it was to continue: an ended trial is not handed out.
            return True
        self._losses.pop(trial, None)
        self._overdue.note_epoch(trial, report.metrics.get(TIME_EPOCH_S, 0.0))
        if report.epoch >= self._plan.epochs or was_stopped(report.metrics):
            self._end(trial, TrialState.COMPLETE)
        elif self._pruner.cuts(trial, report.epoch, report.metrics[self._plan.protocol.metric]):
            self._end(trial, TrialState.PRUNED)
        elif self._is_held_up(trial):
            self._set_aside(trial)
        elif (reason := self._describe_excess()) is not None:
            self._stop(trial, reason)
        return trial in self._running

    def _stop(self, trial: int, reason: str) -> None:
        """Stop a running trial at the limit of GPU-hours."""
        if self._plan.kind == "promote":  # all its runs are needed, so this one waits for a higher limit
            self._running.discard(trial)
            self._waiting.append(trial)
        else:
            self._end(trial, TrialState.PRUNED, message=reason)

    def lose(self, trial: int, message: str, cause: Cause = Cause.LOST, details: str = "") -> None:
        """Record that a trial's process died or ran out of memory; hand the trial out again if that may help.

        A lost trial is handed out again until it has been lost ``MAX_LOSSES`` times in a row without a new epoch. One
        that ran out of memory is handed out once more, to run alone.
        """
        if self._is_over(trial):
            return
        # While it still counts as running: it may have been killed for running too long.
        overdue = self._describe_overdue(trial)
        self._running.discard(trial)
        if overdue is not None:
            self._end(trial, TrialState.FAILED, Cause.TIMEOUT, overdue)
        elif cause is Cause.OOM and self._journal.state.records[trial].needs_all:
            self._end(trial, TrialState.FAILED, cause, f"{message}, and again when it ran alone", details)
        elif cause is Cause.LOST and self._losses[trial] + 1 == MAX_LOSSES:
            self._end(trial, TrialState.FAILED, cause, f"{message} ({MAX_LOSSES} times without a new epoch)", details)
        else:
            # Running out of memory is not a loss: it has one attempt of its own.
            self._losses[trial] += cause is Cause.LOST
            self._journal.append(TrialLost(trial, cause, message))
            self._waiting.append(trial)
        self._settle_screen()

    def _fail(self, trial: int, cause: Cause, report: TrialReport) -> None:
        if cause in (Cause.LOST, Cause.OOM):
            self.lose(trial, report.message, cause, report.details)
        else:
            self._end(trial, TrialState.FAILED, cause, report.message, report.details)

    def _is_over(self, trial: int) -> bool:
        """Return whether what the process of a trial still says no longer counts."""
        record = self._journal.state.records[trial]
        return record.ended or record.state is TrialState.SET_ASIDE

    def _is_held_up(self, trial: int) -> bool:
        """Return whether a trial has to wait at the screen, because too many others may still be better."""
        record = self._journal.state.records[trial]
        self._screen.note(record)
        return self._screen.is_held_up(record, self._count_undecided())

    def _set_aside(self, trial: int) -> None:
        self._journal.append(TrialSetAside(trial))
        self._running.discard(trial)
        record = self._journal.state.records[trial]
        self._screen.set_aside(record)
        self._proposer.learn(record)

    def _settle_screen(self) -> None:
        """End the trials that cannot go beyond the screen any more, and hand out again those that are sure to."""
        for trial in self._screen.find_losers():
            self._end(trial, TrialState.PRUNED)
        self._waiting += self._screen.release(self._count_undecided())

    def _count_undecided(self) -> int:
        """Return how many trials may still reach the screen."""
        state = self._journal.state
        new = state.num_trials - len(state.records) if self._may_propose() else 0
        return new + self._screen.count_before([*self._running, *self._waiting])

    def note_work(self, trial: int) -> None:
        """Record that the process of a trial has started: from now on it must report."""
        self._overdue.note_work(trial)

    def note_absence(self, seconds: float) -> None:
        """Record that this driver was asleep until now, as on a closed laptop; that time does not count as silence."""
        self._overdue.note_absence(seconds)

    def find_waiting(self) -> tuple[int, int] | None:
        """Return how many attempts wait for a process, and since when (in ms) the first does; None if none does.

        Another thread may call it.
        """
        records = self._journal.state.records
        spans = [records[trial].spans[-1] for trial in list(self._running) if trial not in self._overdue.working_since]
        since = [start for start, last in spans if last == start]
        return (len(since), min(since)) if since else None

    def is_overdue(self, trial: int) -> bool:
        """Return whether a running trial hangs, or has taken longer, over all attempts, than the plan allows.

        Neither counts the time until its process runs.
        """
        return self._describe_overdue(trial) is not None

    def _describe_overdue(self, trial: int) -> str | None:
        record = self._journal.state.records[trial]
        return None if record.ended or trial not in self._running else self._overdue.describe(record)

    def _next_waiting(self) -> int | None:
        return next((trial for trial in self._waiting if not self._needs_machine(trial)), None)

    def _hand_out_last(self) -> Handout | None:
        """Hand out a trial that needs the whole machine, once nothing else is running."""
        if self._running or not self._waiting:
            return None
        return self._hand_out_again(self._waiting[0])

    def _needs_machine(self, *trials: int) -> bool:
        records = self._journal.state.records
        return self._plan.resources.gpus_per_worker == 0 and any(records[trial].needs_all for trial in trials)

    def _may_propose(self) -> bool:
        state = self._journal.state
        return not self._exhausted and not state.is_limited and len(state.records) < state.num_trials

    def _is_affordable(self) -> bool:
        """Return whether the next attempt keeps below the limit of GPU-hours, if there is one.

        If not, it may do so once a running trial has been stopped early. If nothing runs, the sweep is over.
        """
        if self._max_hours is None or not (self._waiting or self._may_propose()):
            return True
        record = self._journal.state.records[self._waiting[0]] if self._waiting else None
        ahead = self._screen.list_ahead(record, [*self._running, *self._waiting])
        spending = self._project_spending(ahead)
        hours = self._plan.resources.hours
        if hours(spending.total_s) <= self._max_hours:
            return True
        if not self._running:
            now = self._project_spending()
            message = describe_limit(self._plan, self._max_hours, now)
            while self._waiting and self._plan.kind != "promote":
                self._end(self._waiting.pop(), TrialState.PRUNED, message=message)
            if self._screen.aside:
                # What was kept for the best lets those that have run go on.
                self._say(f"{message}. The best of those that have run continue")
                self._waiting += self._screen.release(0)
                return self._is_affordable()
            self._journal.append(LimitReached(self._max_hours, hours(now.spent_s), hours(now.reserved_s), message))
            self._say(message)
        return False

    def _describe_excess(self) -> str | None:
        """Say why a running trial has to stop: epochs take longer than expected when it was handed out."""
        if self._max_hours is None:
            return None
        spending = self._project_spending(to_the_end=False)
        if self._plan.resources.hours(spending.total_s) <= self._max_hours:
            return None
        return describe_limit(self._plan, self._max_hours, spending)

    def _project_spending(self, ahead: Sequence[int] = (), *, to_the_end: bool = True) -> Outlook:
        records = self._journal.state.records
        return project_spending(
            self._plan,
            self._past,
            [records[trial] for trial in self._running],
            [records[trial] for trial in (*self._waiting, *self._screen.aside)],
            time.time(),
            self._overdue.working_since,
            ahead=ahead,
            to_the_end=to_the_end,
            goal=self._screen.find_goal,
        )

    def _replay(self) -> set[int]:
        """Show every known report to the pruner, in the order of the journal; return the trials that it stops."""
        metric = self._plan.protocol.metric
        reports = [event for event in follow(self._journal.path)[0] if isinstance(event, EpochReported)]
        return {event.trial for event in reports if self._pruner.cuts(event.trial, event.epoch, event.metrics[metric])}

    def _hand_out_again(self, trial: int) -> Handout:
        self._waiting.remove(trial)
        record = self._journal.state.records[trial]
        return self._hand_out(trial, dict(record.params), record.origin, record.attempts + 1)

    def _hand_out(self, trial: int, params: dict[str, Scalar], origin: str, attempt: int) -> Handout:
        # First of all: a driver that is killed right after this must not give the same number to another point.
        self._journal.append(TrialStarted(trial, attempt, params, origin, host=socket.gethostname(), pid=os.getpid()))
        self._running.add(trial)
        self._overdue.note_start(trial)
        record = self._journal.state.records[trial]
        best_value = None if self._best is None else self._best.value(self._plan.protocol)
        return Handout(trial, params, record.spans[-1][0], record.metrics, best_value, alone=record.needs_all)

    def _end(
        self, trial: int, state: TrialState, cause: Cause | None = None, message: str | None = None, details: str = ""
    ) -> None:
        if details:
            self._on_failure(trial, details)
        self._journal.append(TrialEnded(trial, state, cause, message))
        self._running.discard(trial)
        record = self._journal.state.records[trial]
        self._screen.note(record)
        self._best = best([record] if self._best is None else [self._best, record], self._plan.protocol)
        self._proposer.learn(record)
        self._past.add(record)
        self._search.add(record)
        self._on_end(record)
