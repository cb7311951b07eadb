"""Replay the recorded curves of a sweep under another scheduler: would it have kept the winner, and at what cost?

Every report is passed to the scheduler in the order of the journal, until the scheduler stops its trial. This is exact
for the trials that were trained, as far as they were trained. It is not the sweep that the scheduler would have run: a
stopped trial would have freed a place earlier, so reports would have come in another order, and a sampler that learns
would have proposed other trials. A trial that the sweep itself stopped has no more epochs to replay; if the other
scheduler would have continued it, the replay says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.errors import UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep
from training.loop.early_stopping import was_stopped

SchedulerName = Literal["none", "asha", "screen"]


@dataclass(frozen=True)
class Replay:
    """What a scheduler would have done.

    Attributes:
        scheduler: The scheduler with its settings, as words.
        num_trials: Trials that were replayed; failed ones are not.
        epochs, full_epochs: Epochs that it would have trained, and all that the trials would take at full length.
        winner: The winner of the sweep, or None if no trial was completed.
        kept: Whether the winner would have been trained to its end.
        chosen: The trial that would have won.
        regret: By how many percentage points its recorded score is below the winner's.
        stopped: Trial -> the epoch at which it would have been stopped.
        cut_short: Trials that it would have continued beyond their last recorded epoch, so their end is unknown.
    """

    scheduler: str
    num_trials: int
    epochs: int
    full_epochs: int
    winner: int | None
    kept: bool
    chosen: int | None
    regret: float | None
    stopped: Mapping[int, int]
    cut_short: tuple[int, ...]

    @property
    def cost(self) -> float:
        """Epochs as a share of those at full length."""
        return self.epochs / self.full_epochs if self.full_epochs else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what ``replay --json`` prints."""
        return {**vars(self), "stopped": dict(self.stopped), "cost": self.cost}


def replay_sweep(
    sweep_id: str,
    scheduler: SchedulerName,
    *,
    grace_epochs: int | None = None,
    reduction_factor: float | None = None,
    keep: int | None = None,
) -> Replay:
    """Replay the curves of a sweep of this home.

    Args:
        sweep_id: The sweep.
        scheduler: What decides.
        grace_epochs: Epochs that every trial gets; None is the sweep's.
        reduction_factor: Of ASHA: one in this many continues; None is the sweep's.
        keep: Of the screen: how many trials continue; None is the sweep's.

    Raises:
        UserError: A setting is out of range, or the sweep has no epoch yet.
    """
    plan, state = read_sweep(sweep_id)
    changed = replace(
        plan,
        scheduler=scheduler,
        grace_epochs=plan.grace_epochs if grace_epochs is None else grace_epochs,
        reduction_factor=plan.reduction_factor if reduction_factor is None else reduction_factor,
        keep=plan.keep if keep is None else keep,
    )
    _check(changed, state)
    reports = [event for event in follow(sweep_dir(sweep_id) / JOURNAL_FILE)[0] if isinstance(event, EpochReported)]
    replayed = _replayed(state)
    if scheduler == "screen":
        stopped = _stop_at_screen(changed, replayed)
        words = f"screen, all to epoch {changed.grace_epochs}, best {changed.keep} to the end"
    else:
        stopped = {trial: epoch for trial, epoch in _stop_at_rungs(changed, reports).items() if trial in replayed}
        words = (
            scheduler
            if scheduler == "none"
            else f"asha, grace {changed.grace_epochs}, 1 in {changed.reduction_factor:g}"
        )
    return _sum_up(changed, state, replayed, stopped, words)


def _check(plan: SweepPlan, state: SweepState) -> None:
    if not any(record.metrics for record in state.records.values()):
        raise UserError(f"{plan.id} has no epoch to replay yet. See: orchestrator status {plan.id}")
    if not 1 <= plan.grace_epochs <= plan.epochs:
        raise UserError(f"--grace must be from 1 to {plan.epochs}, the length of a trial, but got {plan.grace_epochs}.")
    if not plan.reduction_factor > 1:
        raise UserError(f"--reduction must be above 1, but got {plan.reduction_factor:g}.")
    if plan.keep < 1:
        raise UserError(f"--keep must be at least 1, but got {plan.keep}.")


def _replayed(state: SweepState) -> dict[int, TrialRecord]:
    """Return the trials that have epochs; what failed would fail under any scheduler."""
    records = sorted(state.records.items())
    return {trial: record for trial, record in records if record.metrics and record.state is not TrialState.FAILED}


def _stop_at_rungs(plan: SweepPlan, reports: Iterable[EpochReported]) -> dict[int, int]:
    from orchestrator.trials.pruner import Pruner

    pruner, stopped = Pruner(plan), dict[int, int]()
    for report in reports:
        trial, epoch = report.trial, report.epoch
        value = report.metrics.get(plan.protocol.metric)
        # The end of a trial is not a decision. Trials that failed later count, as they did in the sweep.
        if trial in stopped or epoch >= plan.epochs or was_stopped(report.metrics):
            continue
        if value is not None and math.isfinite(value) and pruner.cuts(trial, epoch, value):
            stopped[trial] = epoch
    return stopped


def _stop_at_screen(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> dict[int, int]:
    from orchestrator.trials.screen import Screen

    screen = Screen.of(plan)
    if screen is None:
        return {}
    # Those that the sweep itself had stopped, at the screen or later, would have reached it all the same.
    reached = [record for record in records.values() if record.last_epoch >= screen.epoch]
    ranked = sorted(reached, key=screen.order)
    return {
        record.trial: screen.epoch
        for record in ranked[screen.keep :]
        if record.last_epoch > screen.epoch or record.state is not TrialState.COMPLETE
    }


def _sum_up(
    plan: SweepPlan,
    state: SweepState,
    records: Mapping[int, TrialRecord],
    stopped: Mapping[int, int],
    words: str,
) -> Replay:
    epochs = sum(min(record.last_epoch, stopped.get(trial, record.last_epoch)) for trial, record in records.items())
    finished = {trial: record for trial, record in records.items() if trial not in stopped}
    winner, chosen = best(state.records.values(), plan.protocol), best(finished.values(), plan.protocol)
    regret = None
    if winner is not None and chosen is not None:
        high, low = winner.value(plan.protocol), chosen.value(plan.protocol)
        regret = None if high is None or low is None else high - low
    return Replay(
        words,
        len(records),
        epochs,
        _full(plan, records),
        None if winner is None else winner.trial,
        winner is not None and winner.trial not in stopped,
        None if chosen is None else chosen.trial,
        regret,
        dict(stopped),
        tuple(trial for trial, record in finished.items() if record.state is TrialState.PRUNED),
    )


def _full(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> int:
    # A trial that a stopping rule of its own ended is as long as it became.
    return sum(record.last_epoch if record.state is TrialState.COMPLETE else plan.epochs for record in records.values())
