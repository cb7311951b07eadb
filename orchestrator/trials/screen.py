"""The scheduler ``screen``: all trials run to one epoch, and the best few of them to their end.

This is i-Epoch (arXiv 2404.04111) with the best k trials in place of the single best one. Who continues follows from
the records of the trials alone, so every driver decides alike. A trial waits at the screen, without a process, until
that is certain: it continues as soon as too few others are left to overtake it, and ends as soon as k are better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.selection import Protocol, choose_value


@dataclass(frozen=True)
class Screen:
    """Decides which trials of a sweep go beyond the screen.

    The best are those of all trials that reach the screen, whatever becomes of them later: one that fails beyond it is
    not replaced. A trial that fails, or that a rule of its own ends, before the screen takes no place. In an extended
    sweep, those that continued before contend with the new ones; what was stopped stays stopped.

    Attributes:
        epoch: At which trials are compared.
        epochs: The full length of a trial.
        keep: How many go on to it.
        protocol: Its score up to ``epoch`` ranks a trial, as the leaderboard shows it there.
    """

    epoch: int
    epochs: int
    keep: int
    protocol: Protocol

    @classmethod
    def of(cls, plan: SweepPlan) -> Screen | None:
        """Return the screen of a plan, or None if it has another scheduler."""
        return None if plan.screen_epoch is None else cls(plan.screen_epoch, plan.epochs, plan.keep, plan.protocol)

    def contends(self, record: TrialRecord) -> bool:
        """Return whether a trial has reached the screen, and was not stopped there."""
        return record.last_epoch >= self.epoch and record.state is not TrialState.PRUNED

    def is_before(self, record: TrialRecord) -> bool:
        """Return whether a trial may still reach the screen."""
        return not record.ended and record.last_epoch < self.epoch

    def order(self, record: TrialRecord) -> tuple[float, int]:
        """Return the key by which trials are sorted, the best first; the earliest of equals comes first."""
        known = {epoch: metrics for epoch, metrics in record.metrics.items() if epoch <= self.epoch}
        value = choose_value(known, self.protocol)
        return math.inf if value is None or not math.isfinite(value) else -value, record.trial

    def rank(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Return the trials that contend, the best first."""
        return sorted(filter(self.contends, records), key=self.order)

    def count_finals(self, records: Iterable[TrialRecord], num_undecided: int) -> int:
        """Return how many trials are still to continue beyond the screen, besides those that do so already.

        Args:
            records: The trials.
            num_undecided: How many trials may still reach the screen, new ones included.
        """
        contending = [record for record in records if self.contends(record)]
        num_aside = sum(record.state is TrialState.SET_ASIDE for record in contending)
        return max(0, min(self.keep - (len(contending) - num_aside), num_aside + num_undecided))


class ScreenedTrials:
    """The trials of a sweep at its screen. Without a screen, none is ever held up.

    Args:
        plan: The sweep.
        state: The journal's state, which its writer updates.

    Attributes:
        aside: Trials that are set aside, and for which it is not certain that they continue.
    """

    def __init__(self, plan: SweepPlan, state: SweepState) -> None:
        self._screen, self._epochs, self._state = Screen.of(plan), plan.epochs, state
        # About as many as there are places, and not all trials: each report looks at them.
        self._contending: set[int] = set()
        self.aside = {record.trial for record in state.open_trials() if record.state is TrialState.SET_ASIDE}
        for record in state.records.values():
            self.note(record)

    def note(self, record: TrialRecord) -> None:
        """Take note of a trial that may have reached the screen, or has ended."""
        if self._screen is not None and self._screen.contends(record):
            self._contending.add(record.trial)
        else:
            self._contending.discard(record.trial)
        if record.ended:
            self.aside.discard(record.trial)

    def set_aside(self, record: TrialRecord) -> None:
        """Let a trial wait."""
        self.note(record)
        self.aside.add(record.trial)

    def is_held_up(self, record: TrialRecord, num_undecided: int) -> bool:
        """Return whether a trial that runs has reached the screen and must wait there.

        Args:
            record: The trial.
            num_undecided: How many trials may still reach the screen, new ones included.
        """
        if record.trial not in self._contending or record.set_aside_after:
            return False
        return record.trial not in self._rank()[: max(0, self._keep - num_undecided)]

    def find_losers(self) -> list[int]:
        """Return the trials for which there is no place any more."""
        return [trial for trial in self._rank()[self._keep :] if trial in self.aside] if self.aside else []

    def release(self, num_undecided: int) -> list[int]:
        """Return the trials that are sure to continue, the best first; they are no longer set aside."""
        if not self.aside:
            return []
        sure = [trial for trial in self._rank()[: max(0, self._keep - num_undecided)] if trial in self.aside]
        self.aside -= set(sure)
        return sure

    def count_before(self, trials: Iterable[int]) -> int:
        """Return how many of these trials may still reach the screen."""
        if self._screen is None:
            return 0
        return sum(self._screen.is_before(self._state.records[trial]) for trial in trials)

    def find_goal(self, record: TrialRecord) -> int:
        """Return the epoch to which a trial runs, as far as that is certain."""
        return self._epochs if self._screen is None or not self._screen.is_before(record) else self._screen.epoch

    def list_ahead(self, record: TrialRecord | None, unfinished: Sequence[int]) -> list[int]:
        """Return the epochs of the next attempt, and those of each trial that the screen will let continue.

        Args:
            record: The trial that would be handed out; None is a new one.
            unfinished: Trials that run or wait for a process.
        """
        last = 0 if record is None else record.last_epoch
        if self._screen is None or (record is not None and not self._screen.is_before(record)):
            return [self._epochs - last]
        known = [self._state.records[trial] for trial in self._contending]
        num_finals = self._screen.count_finals(known, self.count_before(unfinished) + (record is None))
        return [self._screen.epoch - last, *[self._epochs - self._screen.epoch] * num_finals]

    @property
    def _keep(self) -> int:
        return 0 if self._screen is None else self._screen.keep

    def _rank(self) -> list[int]:
        assert self._screen is not None
        return [record.trial for record in self._screen.rank(self._state.records[trial] for trial in self._contending)]
