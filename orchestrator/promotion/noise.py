"""Gather what is known about the noise of a sweep's scores: runs of one configuration with several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.rule import Noise, estimate_noise
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.tracking.reading import read_sweeps
from training.config.run import PLACE_KEYS, Scalar
from training.counts import counted
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD

ASSUMED = "assumed to be half of the deviation between configurations, as nothing has run twice yet"
_ASSUMED_RATIO = 0.5
# Fewer differences between runs say less than the assumption.
LEAST_FREE = 3
_SEED = "loop.seed"
# The latest promotions say enough; a home may have hundreds.
_MAX_PLANS = 20


@dataclass(frozen=True)
class Trials:
    """The different configurations of a sweep that ran at full length.

    Attributes:
        scores: Trial -> its score in percent; of configurations that ran several times, the first trial's.
        costs: Trial -> what its run cost, see :func:`compare_costs`.
        replicates: Scores of each configuration that ran several times.
        num_compared: How many trials were completed or pruned: ASHA leaves the better ones.
    """

    scores: Mapping[int, float]
    costs: Mapping[int, float]
    replicates: Sequence[Sequence[float]]
    num_compared: int

    @property
    def num_selected_from(self) -> int | None:
        """How many configurations the scores are the best of; None if they are all."""
        pruned = self.num_compared - sum(map(len, self.replicates)) - (len(self.scores) - len(self.replicates))
        return len(self.scores) + pruned if pruned > 0 else None


def gather_trials(plan: SweepPlan, records: Iterable[TrialRecord]) -> Trials:
    """Return the configurations of a sweep, by their settings without the training seed."""
    ordered = sorted(records, key=lambda record: record.trial)
    groups: dict[object, dict[int, float]] = {}
    for record in ordered:
        score = record.value(plan.protocol)
        if record.state is TrialState.COMPLETE and score is not None:
            groups.setdefault(_settings(record.params), {})[record.trial] = score
    first = [next(iter(group)) for group in groups.values()]
    ended, costs = (TrialState.COMPLETE, TrialState.PRUNED), compare_costs(ordered)
    return Trials(
        {trial: group[trial] for trial, group in zip(first, groups.values(), strict=True)},
        {record.trial: cost for record, cost in zip(ordered, costs, strict=True) if record.trial in first},
        [list(group.values()) for group in groups.values() if len(group) > 1],
        sum(record.state in ended for record in ordered),
    )


def compare_costs(records: Sequence[TrialRecord]) -> list[float]:
    """Return what each trial cost, in a unit in which they can be compared.

    Seconds are those of one kind of GPU or CPU. On several kinds, the images that passed forward and backward count.
    """
    if len({device for record in records for device in record.devices}) <= 1:
        return [record.held_s for record in records]
    names = (TRAIN_IMAGES_FORWARD, TRAIN_IMAGES_BACKWARD)
    return [sum(epoch.get(name, 0.0) for epoch in record.metrics.values() for name in names) for record in records]


def _settings(params: Mapping[str, Scalar]) -> frozenset[tuple[str, Scalar]]:
    return frozenset((key, value) for key, value in params.items() if key != _SEED)


def find_replicates(plan: SweepPlan, before: float = math.inf) -> list[list[float]]:
    """Return scores of configurations that earlier promotions of this home ran with several seeds, on the same data.

    Only those of the same method, protocol and length count: noise differs between them.

    Args:
        plan: A sweep.
        before: Unix time in s; what was begun later does not count.
    """
    like = _comparable(plan, {})
    groups: dict[object, list[float]] = {}
    for other, state in read_sweeps({"promote", "race"}, _MAX_PLANS, before):
        for record in state.records.values():
            score = record.value(other.protocol)
            if record.state is not TrialState.COMPLETE or score is None or other.protocol != plan.protocol:
                continue
            if _comparable(other, record.params) == like:
                flat = trial_config(other, record.params).flatten()
                groups.setdefault(_settings(flat), []).append(score)
    return [scores for scores in groups.values() if len(scores) > 1]


def know_deviation(plan: SweepPlan) -> tuple[float, str]:
    """Return the deviation between the scores of training seeds, in points, and from which runs it is known.

    Raises:
        UserError: No promotion of this home has run its method on its data with enough seeds.
    """
    groups = find_replicates(plan)
    num_free, num_runs = sum(len(group) - 1 for group in groups), sum(map(len, groups))
    if num_free < LEAST_FREE:
        raise UserError(
            f"The deviation between seeds is not known for {plan.method} on {plan.dataset} over {plan.epochs} epochs: "
            f"no promotion of this home has run it with enough seeds. Say how many points count: --min-gain 0.5"
        )
    squares = math.fsum((score - math.fsum(group) / len(group)) ** 2 for group in groups for score in group)
    return math.sqrt(squares / num_free), f"{num_runs} runs of {counted(len(groups), 'configuration')}"


def _comparable(plan: SweepPlan, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    flat = trial_config(plan, params).flatten()
    return {
        key: value
        for key, value in flat.items()
        if key in ("method.name", "loop.epochs") or (key.startswith("data.") and key not in PLACE_KEYS)
    }


def know_noise(trials: Trials, replicates: Sequence[Sequence[float]]) -> tuple[Noise, str]:
    """Return the noise of a sweep's scores, and where it is known from.

    Args:
        trials: Of the sweep.
        replicates: Further runs: of earlier promotions, or of the race.
    """
    scores, groups = list(trials.scores.values()), [*trials.replicates, *replicates]
    num_free = sum(len(group) - 1 for group in groups)
    # One configuration has no deviation; a second one of another quality makes it an estimate, if a poor one.
    spread = scores if len(scores) > 1 else [*scores, *scores]
    if num_free < LEAST_FREE:
        total = estimate_noise([[0.0, 0.0]], spread, selected=True, num_trials=trials.num_selected_from)
        seed_var = total.config_sd**2 * _ASSUMED_RATIO**2 / (1 + _ASSUMED_RATIO**2)
        config_sd = math.sqrt(total.config_sd**2 - seed_var)
        return Noise(config_sd, math.sqrt(seed_var), total.mean), ASSUMED
    noise = estimate_noise(groups, spread, selected=True, num_trials=trials.num_selected_from)
    if len(scores) < 2:
        noise = replace(noise, config_sd=0.0)
    runs = sum(len(group) for group in groups)
    return noise, f"{runs} runs of {len(groups)} configurations with several seeds"
