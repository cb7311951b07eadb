"""A sweep as a report looks at it: which scores can be compared, where its parameters lie, how its time was spent."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.statistics import Floats, Interval, deviation_interval
from orchestrator.results.spending import count_lanes, outcome_of, sum_outcomes_s
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState
from search_spaces.ranges import Range
from training.config.run import Scalar
from training.config.spelling import listed

TAU, SPBC, REG = "method.cam_threshold", "method.spbc_weight", "method.reg_weight"
FIRST_KEYS = (TAU, SPBC, REG)
"""What readers of IGNORE ask for first."""
MIN_SEEDS = 2
_MOST_COMPLETE_FRAC = 0.7


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    Attributes:
        key: Its dotted key.
        name: The last word of it.
        values: The choices of a setting whose values are not numbers on a line; None for numbers.
    """

    key: str
    name: str
    range: Range
    values: tuple[Scalar, ...] | None

    @property
    def is_smooth(self) -> bool:
        """Whether values between two of them mean something."""
        return self.values is None

    def place(self, value: Scalar) -> float:
        """Return where a value lies in 0..1 of the range, as the search draws it."""
        if self.values is not None:
            known = [repr(each) for each in self.values]
            return known.index(repr(value)) / max(len(known) - 1, 1) if repr(value) in known else math.nan
        assert isinstance(value, int | float)
        low, high = self.range.ends
        if self.range.log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) if value > 0 else math.nan
        return (value - low) / (high - low)

    def value(self, place: float) -> float:
        """Return the number at a place."""
        low, high = self.range.ends
        if self.range.log:
            return math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        return low + place * (high - low)


@dataclass(frozen=True)
class Comparable:
    """Scores that were measured under the same conditions.

    Attributes:
        scores: Trial -> score in percent.
        epoch: At which all were measured; None if each at its own chosen epoch, after full length.
        label: What they are, for an axis.
        note: Why these, as a sentence.
    """

    scores: Mapping[int, float]
    epoch: int | None
    label: str
    note: str


@dataclass(frozen=True)
class SeedNoise:
    """What is known about the deviation between training seeds.

    Attributes:
        deviation: In points, with its 95 % interval.
        num_seeds: How many seeds.
        source: The promotion that trained them.
    """

    deviation: Interval
    num_seeds: int
    source: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial on the timeline, in seconds since the start of the sweep."""

    trial: int
    lane: int
    start_s: float
    end_s: float
    outcome: str


class SweepView:
    """A sweep with everything that is derived from it, each computed once.

    Attributes:
        plan, state: The sweep.
        noise: The deviation between seeds, if a promotion has measured it.
    """

    def __init__(self, plan: SweepPlan, state: SweepState, noise: SeedNoise | None = None) -> None:
        self.plan, self.state, self.noise = plan, state, noise
        self.metric = plan.protocol.metric
        self.trials = [record for _, record in sorted(state.records.items())]

    @cached_property
    def complete(self) -> dict[int, float]:
        """Trial -> score, of the trials that are ranked."""
        return {
            record.trial: value
            for record in self.trials
            if record.state is TrialState.COMPLETE and (value := record.value(self.plan.protocol)) is not None
        }

    @cached_property
    def scored(self) -> dict[int, float]:
        """Trial -> score so far, of the trials that ended and have one; failed trials have no place in a ranking."""
        return {
            record.trial: value
            for record in self.trials
            if record.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and (value := record.value(self.plan.protocol)) is not None
        }

    @cached_property
    def winner(self) -> TrialRecord | None:
        """The leader of the leaderboard."""
        return best(self.trials, self.plan.protocol)

    @cached_property
    def ranking(self) -> list[int]:
        """The ranked trials, best first; the earliest of equals comes first."""
        return sorted(self.complete, key=lambda trial: (-self.complete[trial], trial))

    def score_at(self, record: TrialRecord, epoch: int) -> float | None:
        """Return a trial's score at an epoch, or None if it did not get there."""
        value = record.metrics.get(epoch, {}).get(self.metric)
        return None if value is None or not math.isfinite(value) else value

    @cached_property
    def comparable(self) -> Comparable:
        """Final scores if most trials have one, else those at the last epoch that all trials reached.

        The trials that a scheduler let finish are a selected sample: what the parameters do is not seen from them.
        """
        if len(self.complete) >= _MOST_COMPLETE_FRAC * len(self.scored) or not self.scored:
            note = "Scores are those of complete trials, at the epoch that the protocol chooses."
            return Comparable(self.complete, None, f"{self.metric} (%)", note)
        epoch = min(self.state.records[trial].last_epoch for trial in self.scored)
        scores = {record.trial: value for record in self.trials if (value := self.score_at(record, epoch)) is not None}
        note = (
            f"Scores are those at epoch {epoch}, which every trial reached: the {len(self.complete)} trials that were "
            f"trained to the end were selected for their scores, so they alone would hide what the parameters do."
        )
        return Comparable(scores, epoch, f"{self.metric} at epoch {epoch} (%)", note)

    @cached_property
    def parameters(self) -> list[Parameter]:
        """The searched settings that took more than one value; tau, SPBC weight and reg weight come first."""
        found = []
        for key, over in self.plan.ranges.items():
            taken = {repr(record.params[key]) for record in self.trials if key in record.params}
            if len(taken) > 1:
                found.append(Parameter(key, key.rsplit(".", 1)[-1], over, _choices(over)))
        rank = {key: place for place, key in enumerate(FIRST_KEYS)}
        return sorted(found, key=lambda parameter: rank.get(parameter.key, len(rank)))

    def parameter(self, key: str) -> Parameter | None:
        """Return a searched setting by its key."""
        return next((each for each in self.parameters if each.key == key), None)

    @cached_property
    def points(self) -> tuple[list[int], Floats]:
        """The trials with a comparable score and all parameters, and (trials, parameters) in 0..1 of their ranges.

        What does not act in a trial is in the middle of its range there, where it says least; see :meth:`acting`.
        """
        trials, rows = [], []
        for trial in sorted(self.comparable.scores):
            params = self.state.records[trial].params
            if all(each.key in params or each.key in self.plan.acts_when for each in self.parameters):
                row = [each.place(params[each.key]) if each.key in params else 0.5 for each in self.parameters]
                if not any(map(math.isnan, row)):
                    trials.append(trial)
                    rows.append(row)
        return trials, np.asarray(rows, float).reshape(len(rows), len(self.parameters))

    def measured(self, metric: str, key: str) -> dict[int, float]:
        """Return trial -> a metric at the epoch of its comparable score, of the trials that have it and a setting."""
        found = {}
        for trial in self.comparable.scores:
            record = self.state.records[trial]
            epoch = self.comparable.epoch or record.chosen_epoch(self.plan.protocol)
            value = record.metrics.get(epoch or 0, {}).get(metric)
            if value is not None and math.isfinite(value) and key in record.params:
                found[trial] = value
        return found

    def acting(self, parameter: Parameter) -> list[int]:
        """Return the rows of ``points`` in whose trials a parameter acts: all, unless it does so only in some."""
        trials, _ = self.points
        return [row for row, trial in enumerate(trials) if parameter.key in self.state.records[trial].params]

    def describe_idle(self) -> str:
        """Say which parameters do not act in every trial, or nothing."""
        some = [each.name for each in self.parameters if len(self.acting(each)) < len(self.points[0])]
        return f" In some trials, {listed(some)} did not act: curves leave these trials out." if some else ""

    @property
    def hours_unit(self) -> str:
        """What an hour of a trial is counted in: of its GPUs, or of its CPUs if it has none."""
        return self.plan.resources.hours_unit

    def hours(self, seconds: float) -> float:
        """Return what a trial of this many seconds cost."""
        return self.plan.resources.hours(seconds)

    @cached_property
    def total_hours(self) -> float:
        """What all trials cost together."""
        return self.hours(sum(record.held_s for record in self.trials))

    @cached_property
    def start_ms(self) -> int:
        """When the first driver started."""
        return self.state.started_ms or 0

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Every attempt at a trial, each in a lane of its own while it runs."""
        spans = [
            (start, end, record.trial, outcome_of(record, number))
            for record in self.trials
            for number, (start, end) in enumerate(record.spans)
        ]
        return _into_lanes(sorted(spans), self.start_ms)

    @cached_property
    def num_lanes(self) -> int:
        """How many trials could run at a time."""
        return count_lanes(self.plan, self.trials)

    @cached_property
    def driver_spans_s(self) -> list[tuple[float, float]]:
        """When drivers were running, in seconds since the start."""
        return [
            ((start - self.start_ms) / 1000, (end - self.start_ms) / 1000) for start, end in self.state.driver_spans
        ]

    def spent_s(self) -> dict[str, float]:
        """Return the seconds of all lanes by what came of them: COMPLETE, PRUNED, FAILED, LOST, ... and idle."""
        return sum_outcomes_s(self.trials, self.state.driven_s(), self.num_lanes)


def measure_noise(values: Sequence[float], source: str) -> SeedNoise | None:
    """Return the deviation between seeds from the scores of final runs, or None if there are too few."""
    if len(values) < MIN_SEEDS or max(values) == min(values):
        return None
    return SeedNoise(deviation_interval(values), len(values), source)


def _choices(over: Range) -> tuple[Scalar, ...] | None:
    if over.type != "categorical":
        return None
    choices = tuple(over.choices or ())
    # Numbers in their order, whatever order the space lists them in.
    if all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
        return tuple(sorted(choices, key=lambda choice: float(choice)))  # type: ignore[arg-type]  # just checked
    return choices


def _into_lanes(spans: Sequence[tuple[int, int, int, str]], zero_ms: int) -> list[Attempt]:
    """Give each span the lowest lane that is free when it starts."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    attempts = []
    for start, end, trial, outcome in spans:
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        attempts.append(Attempt(trial, lane, (start - zero_ms) / 1000, (end - zero_ms) / 1000, outcome))
    return attempts
