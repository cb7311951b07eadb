"""Decide whether a search is over: the trials that it has left are expected to gain too little together.

It depends on nothing but what is in the journal, so every driver decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import SearchOver
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.counts import counted

LEAST_COMPLETE = 8
"""With fewer complete trials nothing is said: the best third of them would be a guess."""
_PART = 3


def expected_gain(scores: Sequence[float], num_started: int, num_trials: int) -> float | None:
    """Return by how many points further trials are expected to raise the best score; None if too few are complete.

    The larger of two estimates, neither of which is enough alone (``benchmarks/results/search_stopping.md``): that of
    :func:`gain_of_tail`, which holds for trials that are drawn alike, and :func:`gain_of_latest`, since a search that
    learns gets better.

    Args:
        scores: Of complete trials, in percent, in the order of the trials.
        num_started: All trials that have been started.
        num_trials: All trials of the sweep.
    """
    if len(scores) < LEAST_COMPLETE:
        return None
    return max(gain_of_latest(scores), gain_of_tail(scores, num_started, num_trials))


def gain_of_latest(scores: Sequence[float]) -> float:
    """Return by how many points the latest third of the trials has raised the best score."""
    return max(scores) - max(scores[: len(scores) - len(scores) // _PART])


def gain_of_tail(scores: Sequence[float], num_started: int, num_trials: int) -> float:
    """Return the expected gain if the best scores have an exponential tail.

    Its mean excess ``a`` is that of the best third over the next best. The best of n draws from such a tail lies
    ``a (1 + 1/2 + ... + 1/n)`` above its beginning (Renyi 1953), so going on from n to N trials adds ``a ln(N / n)``.
    Bad and pruned trials change nothing. Of equal draws this is rather too much than too little: real scores have an
    upper end, and what is noise in them counts as if it could be gained.
    """
    num_top = math.ceil(len(scores) / _PART)
    *top, threshold = sorted(scores, reverse=True)[: num_top + 1]
    return (math.fsum(top) / num_top - threshold) * math.log(num_trials / num_started)


class Search:
    """The scores of a sweep so far.

    Args:
        plan: The sweep.
        records: Its trials.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> None:
        self._plan = plan
        self._scores: dict[int, float] = {}
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Add a trial; only a complete one has a score that counts."""
        value = record.value(self._plan.protocol) if record.state is TrialState.COMPLETE else None
        if value is not None:
            self._scores[record.trial] = value

    def decide(self, state: SweepState) -> SearchOver | None:
        """Return what ends the search before its next trial starts, or None.

        An `extend` asks for its trials, whatever they may gain: once there was one, nothing ends the search.
        """
        least, num_started, num_trials = self._plan.min_gain, len(state.records), state.num_trials
        if least is None or state.over is not None or num_trials != self._plan.num_trials:
            return None
        # By number, not as they ended: that order would not be the same after a restart.
        gain = expected_gain([self._scores[trial] for trial in sorted(self._scores)], num_started, num_trials)
        if gain is None or gain >= least:
            return None
        return SearchOver(num_started, num_trials, gain, least, _describe(num_started, num_trials, gain, least))


def _describe(num_started: int, num_trials: int, gain: float, least: float) -> str:
    left = num_trials - num_started
    return (
        f"after {num_started} of {counted(num_trials, 'trial')}, the other {left} {'was' if left == 1 else 'were'} "
        f"expected to raise the best score by {gain:.2g} points, less than --min-gain {least:g}"
    )
