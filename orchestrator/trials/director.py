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
from collections.abc import Callable

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import EpochReported, LimitReached, TrialEnded, TrialLost, TrialStarted
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Cause, Handout, TrialRecord, TrialReport, TrialState, best
from orchestrator.trials.limit import Outlook, PastTrials, describe_limit, held_s, project_spending
from orchestrator.trials.over import Search
from orchestrator.trials.proposers import make_proposer
from orchestrator.trials.pruner import Pruner
from training.config.run import Scalar
from training.loop.early_stopping import was_stopped
from training.metric_names import TIME_EPOCH_S

MAX_LOSSES = 10
"""A trial whose process dies this often in a row without a new epoch, under one driver, has failed as LOST."""
_LEAST_SILENCE_S = 600.0
_SILENT_EPOCHS = 20
"""A trial hangs if it reports nothing for this many times its longest epoch, and at least ``_LEAST_SILENCE_S``."""
_SET_UP_S = 3600.0
"""Minimum time that an attempt has until its first report: a node may have to copy the data first."""
_FIRST_SILENCE_S = 6 * 3600.0
"""Time allowed for the first epoch of a sweep, when the length of an epoch is not known yet."""


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
        self._pruner = Pruner(plan)
        self._proposer = make_proposer(plan, journal.state.records.values())
        self._losses: Counter[int] = Counter()
        self._working_since: dict[int, float] = {}
        self._absences: list[tuple[float, float]] = []
        self._longest_s = {trial: _longest_epoch(record) for trial, record in journal.state.records.items()}
        self._longest_of_all_s = max(self._longest_s.values(), default=0.0)
        self._exhausted = False
        self._max_hours = journal.state.max_gpu_hours or plan.max_gpu_hours
        self._past = PastTrials(plan, journal.state.records.values())
        self._search = Search(plan, journal.state.records.values())
        self._running: set[int] = set()
        self._best = best(journal.state.records.values(), plan.protocol)
        self._cut = self._replay()
        self._waiting = [record.trial for record in journal.state.open_trials()]

    def record_missed_ends(self) -> None:
        """Record the ends that a kill kept out of the journal; call this before anything is handed out.

        They belong to trials whose latest report was due to be their last, by its epoch or by the pruner.
        """
        for record in self._journal.state.open_trials():
            if record.last_epoch >= self._plan.epochs or was_stopped(record.metrics.get(record.last_epoch, {})):
                self._end(record.trial, TrialState.COMPLETE)
            elif record.trial in self._cut:
                self._end(record.trial, TrialState.PRUNED)
        self._waiting = [record.trial for record in self._journal.state.open_trials()]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out or to wait for."""
        if self._journal.state.is_limited and not self._running:
            return True
        return not (self._waiting or self._running or self._may_propose())

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
            self._waiting.remove(waiting)
            record = self._journal.state.records[waiting]
            return self._hand_out(waiting, dict(record.params), record.origin, record.attempts + 1)
        # Trials are numbered without gaps, whatever happens to them.
        trial = len(self._journal.state.records)
        if self._may_propose() and (over := self._search.decide(self._journal.state)) is not None:
            self._journal.append(over)
            self._say(f"the search is over: {over.message}")
        proposal = self._proposer.propose(trial) if self._may_propose() else None
        if proposal is None:
            self._exhausted = True
            return self._hand_out_last()
        return self._hand_out(trial, proposal.params, proposal.origin, 1)

    def report(self, trial: int, report: TrialReport) -> bool:
        """Record a report of a trial's process and return whether the trial continues.

        Raises:
            OrchestratorError: The journal or the checkpoints cannot be written.
        """
        if self._journal.state.records[trial].ended:
            return False
        if report.storage_full:
            # Every other trial would fail in the same way, so the sweep stops, and a resume hands this one out again.
            raise OrchestratorError(
                f"Trial {trial} cannot write its checkpoint: {report.message}. "
                f"Free some space, then continue: orchestrator resume {self._plan.id}"
            )
        if report.cause is None and report.epoch == 0:
            self.note_work(trial)
            return True
        if report.cause is None and self._plan.protocol.metric not in report.metrics:
            report = _missing_metric(report, self._plan.protocol.metric)
        if report.cause is not None:
            self._fail(trial, report.cause, report)
            return False
        return self._take_epoch(trial, report)

    def _take_epoch(self, trial: int, report: TrialReport) -> bool:
        known = self._journal.state.records[trial].last_epoch
        broken = ", ".join(report.passed_over)
        if report.resumed_from == 0 and (broken or known):
            why = f"its checkpoints are damaged ({broken})" if broken else "it has no checkpoint"
            self._say(f"trial {trial} starts again from epoch 1: {why}")
        elif broken:
            self._say(f"trial {trial} continues from epoch {report.epoch}: its newer checkpoint {broken} is incomplete")
        if report.epoch > known + 1:
            missing = f"{known + 1} to {report.epoch - 1}" if report.epoch > known + 2 else str(known + 1)
            self._say(f"trial {trial} continues from epoch {report.epoch}; the figures of epoch {missing} are lost")
        # Before the epoch is in the journal: if this driver is killed in between, the next one hands the trial out
        # again and gets them. Afterwards the trial counts as complete, and nobody asks for them.
        if report.artifacts:
            self._on_artifacts(trial, report.artifacts)
        if not self._journal.append(_epoch_event(trial, report)):
            self.note_work(trial)
            # A resumed trial reports the epoch of its checkpoint again. If the journal has it, the decision was made
            # then, and it was to continue: an ended trial is not handed out.
            return True
        self._losses.pop(trial, None)
        took_s = report.metrics.get(TIME_EPOCH_S, 0.0)
        self._longest_s[trial] = max(self._longest_s.get(trial, 0.0), took_s)
        self._longest_of_all_s = max(self._longest_of_all_s, took_s)
        if report.epoch >= self._plan.epochs or was_stopped(report.metrics):
            self._end(trial, TrialState.COMPLETE)
        elif self._pruner.cuts(trial, report.epoch, report.metrics[self._plan.protocol.metric]):
            self._end(trial, TrialState.PRUNED)
        elif (reason := self._describe_excess()) is not None:
            return self._stop(trial, reason)
        return not self._journal.state.records[trial].ended

    def _stop(self, trial: int, reason: str) -> bool:
        """Stop a running trial at the limit of GPU-hours; return False, as it does not continue."""
        if self._plan.kind == "promote":  # all its runs are needed, so this one waits for a higher limit
            self._running.discard(trial)
            self._waiting.append(trial)
        else:
            self._end(trial, TrialState.PRUNED, message=reason)
        return False

    def lose(self, trial: int, message: str, cause: Cause = Cause.LOST, details: str = "") -> None:
        """Record that a trial's process died or ran out of memory; hand the trial out again if that may help.

        A lost trial is handed out again until it has been lost ``MAX_LOSSES`` times in a row without a new epoch. One
        that ran out of memory is handed out once more, to run alone.
        """
        if self._journal.state.records[trial].ended:
            return
        overdue = self._describe_overdue(
            trial
        )  # while it still counts as running: it may have been killed for running too long
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

    def _fail(self, trial: int, cause: Cause, report: TrialReport) -> None:
        if cause in (Cause.LOST, Cause.OOM):
            self.lose(trial, report.message, cause, report.details)
        else:
            self._end(trial, TrialState.FAILED, cause, report.message, report.details)

    def note_work(self, trial: int) -> None:
        """Record that the process of a trial has started: from now on it must report."""
        self._working_since.setdefault(trial, time.time())

    def note_absence(self, seconds: float) -> None:
        """Record that this driver was asleep until now, as on a closed laptop; that time does not count as silence."""
        self._absences.append((time.time(), seconds))

    def find_waiting(self) -> tuple[int, int] | None:
        """Return how many attempts wait for a process, and since when (in ms) the first does; None if none does.

        Another thread may call it.
        """
        records = self._journal.state.records
        spans = [records[trial].spans[-1] for trial in list(self._running) if trial not in self._working_since]
        since = [start for start, last in spans if last == start]
        return (len(since), min(since)) if since else None

    def is_overdue(self, trial: int) -> bool:
        """Return whether a running trial hangs, or has taken longer, over all attempts, than the plan allows.

        Neither counts the time until its process runs.
        """
        return self._describe_overdue(trial) is not None

    def _describe_overdue(self, trial: int) -> str | None:
        record = self._journal.state.records[trial]
        if record.ended or trial not in self._running:
            return None
        now, limit_s = time.time(), self._plan.time_limit_s
        began, last = (moment / 1000 for moment in record.spans[-1])
        # Until a trial has an epoch of its own, the sweep's longest epoch is the measure.
        longest_s = self._longest_s.get(trial, 0.0) if record.metrics else self._longest_of_all_s
        least_s = _LEAST_SILENCE_S
        if last == began:  # this attempt has reported no epoch yet
            if trial not in self._working_since:
                return None  # it may be waiting for a node
            last = self._working_since[trial]
            least_s = _SET_UP_S if record.metrics or longest_s else _FIRST_SILENCE_S
        taken_s = held_s(record, now, self._working_since.get(trial)) - self._absent_s(began)
        if limit_s is not None and taken_s > limit_s:
            return f"took longer than {limit_s:g} s"
        silent_s = now - last - self._absent_s(last)
        if silent_s > max(least_s, _SILENT_EPOCHS * longest_s):
            return f"reported nothing for {silent_s:.0f} s, after epochs of at most {longest_s:.0f} s"
        return None

    def _absent_s(self, since: float) -> float:
        return sum(seconds for end, seconds in self._absences if end > since)

    def _next_waiting(self) -> int | None:
        return next((trial for trial in self._waiting if not self._needs_machine(trial)), None)

    def _hand_out_last(self) -> Handout | None:
        """Hand out a trial that needs the whole machine, once nothing else is running."""
        if self._running or not self._waiting:
            return None
        record = self._journal.state.records[self._waiting.pop(0)]
        return self._hand_out(record.trial, dict(record.params), record.origin, record.attempts + 1)

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
        spending = self._project_spending(self._plan.epochs - (record.last_epoch if record else 0))
        hours = self._plan.resources.hours
        if hours(spending.total_s) <= self._max_hours:
            return True
        if not self._running:
            now = self._project_spending(0)
            message = describe_limit(self._plan, self._max_hours, now)
            while self._waiting and self._plan.kind != "promote":
                self._end(self._waiting.pop(), TrialState.PRUNED, message=message)
            self._journal.append(LimitReached(self._max_hours, hours(now.spent_s), hours(now.reserved_s), message))
            self._say(message)
        return False

    def _describe_excess(self) -> str | None:
        """Say why a running trial has to stop: epochs take longer than expected when it was handed out."""
        if self._max_hours is None:
            return None
        spending = self._project_spending(0, to_the_end=False)
        if self._plan.resources.hours(spending.total_s) <= self._max_hours:
            return None
        return describe_limit(self._plan, self._max_hours, spending)

    def _project_spending(self, more_epochs: int, *, to_the_end: bool = True) -> Outlook:
        records = self._journal.state.records
        return project_spending(
            self._plan,
            self._past,
            [records[trial] for trial in self._running],
            [records[trial] for trial in self._waiting],
            time.time(),
            self._working_since,
            more_epochs=more_epochs,
            to_the_end=to_the_end,
        )

    def _replay(self) -> set[int]:
        """Show every known report to the pruner, in the order of the journal; return the trials that it stops."""
        metric = self._plan.protocol.metric
        reports = [event for event in follow(self._journal.path)[0] if isinstance(event, EpochReported)]
        return {event.trial for event in reports if self._pruner.cuts(event.trial, event.epoch, event.metrics[metric])}

    def _hand_out(self, trial: int, params: dict[str, Scalar], origin: str, attempt: int) -> Handout:
        # First of all: a driver that is killed right after this must not give the same number to another point.
        self._journal.append(TrialStarted(trial, attempt, params, origin, host=socket.gethostname(), pid=os.getpid()))
        self._running.add(trial)
        self._working_since.pop(trial, None)
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
        self._best = best([record] if self._best is None else [self._best, record], self._plan.protocol)
        self._proposer.learn(record)
        self._past.add(record)
        self._search.add(record)
        self._on_end(record)


def _longest_epoch(record: TrialRecord) -> float:
    return max((metrics.get(TIME_EPOCH_S, 0.0) for metrics in record.metrics.values()), default=0.0)


def _epoch_event(trial: int, report: TrialReport) -> EpochReported:
    return EpochReported(
        trial,
        report.epoch,
        dict(report.metrics),
        host=report.host,
        pid=report.pid,
        queue_s=report.queue_s,
        start_s=report.start_s,
        device=report.device,
    )


def _missing_metric(report: TrialReport, metric: str) -> TrialReport:
    message = f"An epoch's metrics must include {metric}, but got {', '.join(sorted(report.metrics)) or 'none'}."
    return TrialReport(cause=Cause.ERROR, message=message)
