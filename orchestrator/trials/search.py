"""What to try next and what to cut short: Optuna's samplers, a grid, and Ray's ASHA, all keyed by our trial numbers.

Nothing is kept on disk: both are rebuilt from the journal. What is drawn for a trial comes from a generator seeded with
(search seed, trial number) and from the trials that have ended, so a sweep that is resumed does not repeat draws.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from search_spaces.ranges import Range
from training.config.run import Scalar
from training.selection import Protocol as SelectionProtocol

optuna.logging.set_verbosity(optuna.logging.ERROR)

_OPTUNA_STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


@dataclass(frozen=True)
class Proposal:
    """A point to try, and where it comes from."""

    params: dict[str, Scalar]
    origin: str


class Proposer(Protocol):
    """Proposes a point per trial number and learns how it ended."""

    def propose(self, trial: int) -> Proposal | None:
        """Return the point of a new trial, or None if there is none left."""

    def learn(self, record: TrialRecord) -> None:
        """Take in how a trial ended."""


def make_proposer(plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> Proposer:
    """Return the proposer of a plan, as it stood after these trials; those that have not ended count as running."""
    if plan.sampler == "grid" and plan.ranges:
        return GridProposer(plan)
    return OptunaProposer(plan, records)


class GridProposer:
    """Every combination of the ranges' grid values, numbered; the last range changes fastest. Start points are not
    used.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._axes = {key: found.grid() for key, found in plan.ranges.items()}

    def propose(self, trial: int) -> Proposal | None:
        """Return the combination with this number."""
        params: dict[str, Scalar] = {}
        rest = trial
        for key, values in reversed(self._axes.items()):
            rest, index = divmod(rest, len(values))
            params[key] = values[index]
        return None if rest else Proposal({key: params[key] for key in self._axes}, "grid")

    def learn(self, record: TrialRecord) -> None:
        """A grid learns nothing."""


class OptunaProposer:
    """Start points first, then random start-up points, then TPE (multivariate, constant liar) or more random points.

    A trial that was cut short is told as PRUNED with the values of its epochs, never as a finished one; one that failed
    tells TPE nothing.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> None:
        self._plan = plan
        self._distributions = {key: _distribution(found) for key, found in plan.ranges.items()}
        self.study = optuna.create_study(storage=None, direction="maximize")
        self._running: dict[int, optuna.Trial] = {}
        for record in sorted(records, key=lambda record: record.trial):
            if record.ended:
                self.study.add_trial(_frozen(record, self._distributions, plan.protocol))
            else:
                self._running[record.trial] = self._ask(record.trial, record.params)

    def propose(self, trial: int) -> Proposal | None:
        """Return a start point, completed where it leaves something out, or a drawn one."""
        point: Mapping[str, Scalar] = self._plan.start_from[trial] if trial < len(self._plan.start_from) else {}
        self._running[trial] = self._ask(trial, point)
        return Proposal({**point, **self._running[trial].params}, self._origin(trial))

    def learn(self, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended, and all that it reported on the way."""
        trial = self._running.pop(record.trial)
        for epoch, reported in _values(record, self._plan.protocol).items():
            trial.report(reported, epoch)
        state, value = _outcome(record, self._plan.protocol)
        self.study.tell(trial, value, state=state)

    def _ask(self, trial: int, point: Mapping[str, Scalar]) -> optuna.Trial:
        known = {key: value for key, value in point.items() if key in self._distributions}
        if known:
            self.study.enqueue_trial(known)
        self.study.sampler = self._sampler(trial)
        return self.study.ask(self._distributions)

    def _sampler(self, trial: int) -> optuna.samplers.BaseSampler:
        seed = _mix(self._plan.search_seed, trial)
        if self._origin(trial) != "tpe":
            return optuna.samplers.RandomSampler(seed)
        return _PlannedTpe(self._distributions, seed)

    def _origin(self, trial: int) -> str:
        if trial < len(self._plan.start_from):
            return "promote" if self._plan.kind == "promote" else "start_from"
        if self._plan.sampler == "random":
            return "random"
        return "startup" if trial < self._plan.startup_trials else "tpe"


class _PlannedTpe(optuna.samplers.TPESampler):
    """TPE over the plan's ranges: it need not look for them in all trials there ever were, at every draw.

    Start-up is counted by trial number outside of here, so that what runs at the same time does not stretch it.
    """

    def __init__(self, distributions: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
        self._planned = distributions

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._planned


class Pruner:
    """Ray's ASHA, keyed by trial number; every report is put to it once, in the order of the journal.

    It is asynchronous: a report is compared with what had reached its rung before. So whoever puts the same reports to
    it in the same order gets the same decisions, and `resume` finds what a dead driver had decided.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._asha: Any = None  # typed, it would want Tune's own Trial, of which it reads the id only
        self._known: set[int] = set()
        if plan.scheduler == "asha" and plan.grace_epochs < plan.epochs:
            self._asha = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="value",
                mode="max",
                max_t=plan.epochs,
                grace_period=plan.grace_epochs,
                reduction_factor=plan.reduction_factor,
            )

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        """Take in a report and return whether its trial should stop here."""
        if self._asha is None:
            return False
        key = _TrialKey(str(trial))
        if trial not in self._known:
            self._known.add(trial)
            self._asha.on_trial_add(None, key)
        decision = self._asha.on_trial_result(None, key, {"epoch": epoch, "value": value})
        return bool(decision == TrialScheduler.STOP)


@dataclass(frozen=True)
class _TrialKey:
    """All that ASHA looks at in a Tune trial."""

    trial_id: str


def _mix(seed: int, trial: int) -> int:
    """Return a 32-bit seed; neighbouring pairs give unrelated ones."""
    return random.Random(f"{seed}/{trial}").getrandbits(32)


def _distribution(found: Range) -> BaseDistribution:
    if found.type == "categorical":
        return CategoricalDistribution(found.choices or ())
    low, high = found.ends
    if found.type == "int":
        return IntDistribution(int(low), int(high), log=found.log)
    return FloatDistribution(low, high, log=found.log)


def _frozen(
    record: TrialRecord, distributions: Mapping[str, BaseDistribution], protocol: SelectionProtocol
) -> optuna.trial.FrozenTrial:
    state, value = _outcome(record, protocol)
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={key: record.params[key] for key in distributions},
        distributions=dict(distributions),
        intermediate_values=_values(record, protocol),
    )


def _outcome(record: TrialRecord, protocol: SelectionProtocol) -> tuple[optuna.trial.TrialState, float | None]:
    value = record.value(protocol) if record.state is TrialState.COMPLETE else None
    if record.state is TrialState.COMPLETE and value is None:
        return optuna.trial.TrialState.FAIL, None
    return _OPTUNA_STATES[record.state], value


def _values(record: TrialRecord, protocol: SelectionProtocol) -> dict[int, float]:
    return {
        epoch: metrics[protocol.metric]
        for epoch, metrics in sorted(record.metrics.items())
        if protocol.metric in metrics
    }
