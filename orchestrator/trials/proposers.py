"""Proposes the hyper-parameters of each trial, by Optuna's samplers or from a grid, keyed by our trial numbers.

Nothing is stored: proposers are rebuilt from the journal. What is drawn for a trial depends on a generator seeded with
(search seed, trial number) and on the trials that have ended, so a resumed sweep does not repeat its draws.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.errors import OrchestratorError
from orchestrator.home import PLAN_FILE, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.trials.race_blocks import place_of, read_race
from orchestrator.trials.samplers import Memory, PlannedGp, PlannedTpe
from search_spaces.conditions import acts, drop_idle, order_keys, walk_grid
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
    """Proposes a point for each trial number and learns from how the trial ended."""

    def propose(self, trial: int) -> Proposal | None:
        """Return the point of a new trial, or None if no point is left."""

    def learn(self, record: TrialRecord) -> None:
        """Learn from the end of a trial, or from what it was set aside with."""


def make_proposer(plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> Proposer:
    """Return a plan's proposer in its state after these trials; unfinished trials count as running."""
    if plan.sampler == "grid" and plan.ranges:
        return GridProposer(plan)
    if plan.kind == "race":
        return RaceProposer(plan, records)
    return OptunaProposer(plan, records)


class GridProposer:
    """Proposes every different combination of the ranges' grid values in order: the last range changes fastest.

    Start points are not used. Why not ``optuna.samplers.GridSampler``: it shuffles the combinations, so a grid that an
    earlier version began could not be resumed, and after the last one it calls ``study.stop()``, which raises outside
    ``study.optimize``. The point of a trial's number is the same after a restart.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._walk = walk_grid({key: found.grid() for key, found in plan.ranges.items()}, plan.acts_when)
        self._points: list[dict[str, Scalar]] = []

    def propose(self, trial: int) -> Proposal | None:
        """Return the combination with this number."""
        self._points.extend(itertools.islice(self._walk, max(0, trial + 1 - len(self._points))))
        return Proposal(dict(self._points[trial]), "grid") if trial < len(self._points) else None

    def learn(self, record: TrialRecord) -> None:
        """A grid learns nothing."""


class RaceProposer:
    """Proposes the runs of a race, block by block, without those of candidates that were dropped.

    A block is one seed for all candidates. With several trials at a time, a run of the next block may begin before the
    last one of a block has ended: what it says still counts.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord]) -> None:
        self._plan = plan
        self._records = {record.trial: record for record in records}
        self._handed = {place_of(plan, record.params) for record in self._records.values()}

    def propose(self, trial: int) -> Proposal | None:
        """Return the next run of a candidate that is still in the race, or None if there is none."""
        missing = read_race(self._plan, self._records.values()).missing
        place = next((place for place in missing if place not in self._handed), None)
        if place is None:
            return None
        self._handed.add(place)
        return Proposal(dict(self._plan.start_from[place]), "race")

    def learn(self, record: TrialRecord) -> None:
        """Remember how a run ended."""
        self._records[record.trial] = record


class OptunaProposer:
    """Proposes the start points, then start-up points, then those of TPE, of a Gaussian process, or random ones.

    A trial that was cut short is reported to Optuna as PRUNED with the values of its epochs, never as a finished one.
    So is one that is set aside: TPE takes trials that run for bad ones, and these are the best so far. TPE ignores
    failed trials. What does not act in a trial (``plan.acts_when``) is not drawn for it.
    """

    def __init__(self, plan: SweepPlan, records: Iterable[TrialRecord] = ()) -> None:
        self._plan = plan
        self._distributions = {key: _distribution(plan.ranges[key]) for key in order_keys(plan.ranges, plan.acts_when)}
        self._memory = Memory()
        self.study = optuna.create_study(storage=None, direction="maximize")
        self._running: dict[int, optuna.Trial] = {}
        for record in sorted(records, key=lambda record: record.trial):
            _require_in_ranges(plan, record)
            if record.ended or record.set_aside_after:
                self.study.add_trial(_frozen(record, self._distributions, plan.protocol))
            else:
                self._running[record.trial] = self._ask(record.trial, record.params)

    def propose(self, trial: int) -> Proposal | None:
        """Return a start point, with drawn values for the keys that it leaves out, or a drawn point."""
        point = self._known_point(trial)
        self._running[trial] = self._ask(trial, point)
        # A point may also give keys that nothing searches, such as the seed of a final run.
        fixed = {key: value for key, value in point.items() if key not in self._distributions}
        return Proposal({**fixed, **self._running[trial].params}, self._origin(trial))

    def _known_point(self, trial: int) -> Mapping[str, Scalar]:
        """Return what is known of a point before anything is drawn: a start point, or one of an even spread."""
        if trial < len(self._plan.start_from):
            return self._plan.start_from[trial]
        spread = spread_point(self._plan, trial) if self._origin(trial) == "quasi_random" else {}
        return drop_idle(spread, self._plan.acts_when)

    def learn(self, record: TrialRecord) -> None:
        """Report to Optuna how a trial ended, or was set aside, and every value that it reported."""
        trial = self._running.pop(record.trial, None)
        if trial is None:
            return  # told when it was set aside; when such trials go on, there is nothing left to propose
        for epoch, reported in _values(record, self._plan.protocol).items():
            trial.report(reported, epoch)
        state, value = _outcome(record, self._plan.protocol)
        self.study.tell(trial, value, state=state)

    def _ask(self, trial: int, point: Mapping[str, Scalar]) -> optuna.Trial:
        known = {key: value for key, value in point.items() if key in self._distributions}
        if known:
            # The next ask() takes this point and draws only what it leaves out.
            self.study.enqueue_trial(known)
        # A new sampler for every trial: a long-lived sampler would be in a different state after a restart.
        self.study.sampler = self._sampler(trial)
        asked, drawn = self.study.ask(), dict[str, Scalar]()
        for key, distribution in self._distributions.items():
            if acts(key, drawn, self._plan.acts_when):
                drawn[key] = _suggest(asked, key, distribution)
        return asked

    def _sampler(self, trial: int) -> optuna.samplers.BaseSampler:
        seed = _mix(self._plan.search_seed, trial)
        origin = self._origin(trial)
        if origin == "tpe":
            return PlannedTpe(self._group(), seed, self._memory)
        if origin != "gp":
            return optuna.samplers.RandomSampler(seed)
        middles = {key: self._plan.ranges[key].at(0.5) for key in self._plan.acts_when}
        return PlannedGp(self._distributions, seed, middles)

    def _group(self) -> list[dict[str, BaseDistribution]]:
        """Return the ranges in groups of those that act under the same conditions."""
        groups: dict[str, dict[str, BaseDistribution]] = {}
        for key, distribution in self._distributions.items():
            conditions = sorted(self._plan.acts_when.get(key, {}).items())
            groups.setdefault(repr(conditions), {})[key] = distribution
        return list(groups.values())

    def _origin(self, trial: int) -> str:
        if trial < len(self._plan.start_from):
            return "promote" if self._plan.kind == "promote" else "start_from"
        learns = self._plan.sampler != "random" and trial >= self._plan.startup_trials
        if not learns and self._plan.startup == "quasi_random":
            return "quasi_random"
        if self._plan.sampler == "random":
            return "random"
        return self._plan.sampler if learns else "startup"


def spread_point(plan: SweepPlan, trial: int) -> dict[str, Scalar]:
    """Return the point of a trial in a scrambled Sobol sequence over the ranges: the first ones are spread evenly."""
    # Imported here: it takes half a second, and most sweeps do without. A power of two, as the sequence wants it.
    from scipy.stats import qmc

    rows = qmc.Sobol(len(plan.ranges), scramble=True, rng=plan.search_seed).random_base2(trial.bit_length())
    places = dict(zip(plan.ranges, rows[trial].tolist(), strict=True))
    return {key: found.at(places[key]) for key, found in plan.ranges.items()}


def _mix(seed: int, trial: int) -> int:
    """Return a 32-bit seed; neighbouring pairs give unrelated seeds."""
    # Seeded with a text, Random hashes it with SHA-512, which is the same on every machine.
    return random.Random(f"{seed}/{trial}").getrandbits(32)


def _distribution(found: Range) -> BaseDistribution:
    if found.type == "categorical":
        return CategoricalDistribution(found.choices or ())
    low, high = found.ends
    if found.type == "int":
        return IntDistribution(int(low), int(high), log=found.log)
    return FloatDistribution(low, high, log=found.log)


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Scalar:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)


def _require_in_ranges(plan: SweepPlan, record: TrialRecord) -> None:
    for key, found in plan.ranges.items():
        # Optuna would raise an error that names neither the trial nor the file.
        # A trial that has not ended may lack keys, which are then drawn; any trial lacks those that do not act in it.
        is_lacking = record.ended and acts(key, record.params, plan.acts_when)
        is_inside = found.contains(record.params[key]) if key in record.params else not is_lacking
        if not is_inside:
            raise OrchestratorError(
                f"Trial {record.trial} of {plan.id} has {key}={record.params.get(key)}, which is not in its range in "
                f"{sweep_dir(plan.id) / PLAN_FILE} ({found}). The plan was changed after the sweep began. Undo that, "
                f"or start a new sweep with the other range."
            )


def _frozen(
    record: TrialRecord, distributions: Mapping[str, BaseDistribution], protocol: SelectionProtocol
) -> optuna.trial.FrozenTrial:
    state, value = _outcome(record, protocol)
    given = {key: distribution for key, distribution in distributions.items() if key in record.params}
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={key: record.params[key] for key in given},
        distributions=given,
        intermediate_values=_values(record, protocol),
    )


def _outcome(record: TrialRecord, protocol: SelectionProtocol) -> tuple[optuna.trial.TrialState, float | None]:
    value = record.value(protocol) if record.state is TrialState.COMPLETE else None
    if record.state is TrialState.COMPLETE and value is None:
        # Optuna takes no COMPLETE trial without a value.
        return optuna.trial.TrialState.FAIL, None
    return _OPTUNA_STATES.get(record.state, optuna.trial.TrialState.PRUNED), value


def _values(record: TrialRecord, protocol: SelectionProtocol) -> dict[int, float]:
    return {
        epoch: metrics[protocol.metric]
        for epoch, metrics in sorted(record.metrics.items())
        if protocol.metric in metrics
    }
