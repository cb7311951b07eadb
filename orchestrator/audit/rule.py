"""Audit a promotion by the rule: what was run again, the race run by run, and the decision, computed a second time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from orchestrator.audit.findings import Report, name_all
from orchestrator.audit.plain_rule import plain_noise, plain_posterior, plain_race
from orchestrator.audit.subject import Subject
from orchestrator.planning.choice import Choice
from orchestrator.planning.config_hash import hash_config
from orchestrator.planning.follow_up import first_race_seed
from orchestrator.planning.sweep_plan import Params, SweepPlan, trial_config
from orchestrator.promotion.noise import ASSUMED, LEAST_FREE, compare_costs, find_replicates
from orchestrator.promotion.rule import Noise, Reruns, choose_reruns, winner_interval
from orchestrator.sweep_folder.records import TrialRecord, TrialState

_SEED = "loop.seed"
_PILOT = Reruns(2, 3)
_LEAST_WITH_CHAMPION = Reruns(1, 3)
_DIGITS = 6
_TOLERANCE = 1e-6
_AGAIN = "Promote again, from the same search"


@dataclass(frozen=True)
class _Search:
    """What the rule may know of a search.

    Attributes:
        subject: The search.
        choice: What the rule says of it; its trials beyond ``num_trials`` came later.
    """

    subject: Subject
    choice: Choice

    @cached_property
    def groups(self) -> list[dict[int, float]]:
        """Trial -> score, for each configuration that ran at full length, by its first trial."""
        found: dict[frozenset[tuple[str, object]], dict[int, float]] = {}
        for trial, record in self.subject.complete.items():
            score = record.value(self.subject.plan.protocol)
            if trial < self.choice.num_trials and score is not None:
                settings = {key: value for key, value in record.params.items() if key != _SEED}
                found.setdefault(frozenset(settings.items()), {})[trial] = score
        return list(found.values())

    @cached_property
    def scores(self) -> dict[int, float]:
        """First trial of a configuration -> its score."""
        return {min(group): group[min(group)] for group in self.groups}

    @property
    def num_selected_from(self) -> int | None:
        """How many configurations those are the best of; None if nothing was pruned."""
        pruned = [
            trial
            for trial, record in self.subject.state.records.items()
            if record.state is TrialState.PRUNED and trial < self.choice.num_trials
        ]
        return len(self.scores) + len(pruned) if pruned else None

    def rank(self, values: Mapping[int, float]) -> list[int]:
        """Return trials by value, the best first; ties go to the cheaper, then to the earlier."""
        # Those that the choice had: the sweep may have been extended since.
        records = [record for trial, record in self.subject.state.records.items() if trial < self.choice.num_trials]
        costs = dict(zip((record.trial for record in records), compare_costs(records), strict=True))
        return sorted(values, key=lambda trial: (-round(values[trial], _DIGITS), costs[trial], trial))

    def of_champion(self) -> set[int]:
        """Return the trials that have the settings of the champion."""
        point = self.choice.champion_point
        if point is None:
            return set()
        hashed = _hash(self.subject.plan, point)
        return {trial for trial in self.scores if _hash(self.subject.plan, self.point(trial)) == hashed}

    def point(self, trial: int) -> Params:
        """Return the params of a trial without its seed."""
        params = self.subject.state.records[trial].params
        return {key: value for key, value in params.items() if key != _SEED}


def _hash(plan: SweepPlan, params: Params) -> str:
    return hash_config(trial_config(plan, params).flatten())


def audit_rule(subject: Subject, parent: Subject, race: Subject | None, report: Report) -> None:
    """Check how a promotion by the rule chose its winner.

    Args:
        subject: The promotion.
        parent: The search that it promoted from.
        race: Its race, unless there was none; one that cannot be read is a finding of its own.
        report: Where findings go.
    """
    choice = subject.plan.choice
    if choice is None or (choice.race is not None and race is None):
        return
    search = _Search(parent, choice)
    if not search.scores:
        return
    report.count("choices by the rule")
    if race is None:
        _check_reruns(subject, search, choice, report)
        expected: Mapping[str, object] = {"trial": search.rank(search.scores)[0]}
    else:
        before = race.plan.choice
        assert before is not None
        _check_reruns(race, _Search(parent, before), before, report)
        _check_plan_of_race(race, search, report)
        expected = _decide(race, search, report)
        _check_noise(race, _Search(parent, before), report)
    _check_noise(subject, search, report)
    _check_figures(subject, search, choice, expected, report)
    _check_promoted(subject, search, choice, report)
    _check_verdict(subject, choice, report)


def _check_reruns(subject: Subject, search: _Search, choice: Choice, report: Report) -> None:
    """Check that as many candidates and seeds were planned as the rule gives, and the best ones."""
    theirs = search.of_champion()
    ranked = [trial for trial in search.rank(search.scores) if trial not in theirs]
    reruns = _expect_reruns(search, choice)
    candidates, blocks = tuple(ranked[: reruns.k]), reruns.m
    planned = (len(choice.candidates), choice.blocks if choice.num_entrants else 0)
    report.count("sizes of races")
    if planned != (len(candidates), blocks if candidates or choice.champion_point is not None else 0):
        report.find(
            "rule",
            subject.id,
            f"it planned {planned[0]} candidates with {planned[1]} seeds each, but the rule gives {len(candidates)} "
            f"with {blocks} within {choice.budget} runs",
            _AGAIN,
        )
    elif choice.candidates != candidates:
        report.find(
            "rule",
            subject.id,
            f"its candidates are trial {name_all(choice.candidates)}, but the best of {search.subject.id} are trial "
            f"{name_all(candidates)}",
            _AGAIN,
        )


def _expect_reruns(search: _Search, choice: Choice) -> Reruns:
    reruns = choose_reruns(list(search.scores.values()), _noise_of(choice), choice.budget)
    # Without any knowledge of the noise, a few runs have to tell it.
    if choice.seed_df is None and len(search.scores) > 1 and reruns.num_runs < _PILOT.num_runs <= choice.budget:
        reruns = _PILOT
    if choice.champion_point is not None:
        return Reruns(max(_LEAST_WITH_CHAMPION.k, reruns.k), max(_LEAST_WITH_CHAMPION.m, reruns.m))
    # A champion without a point of its own is the best trial itself, so there was nothing to choose.
    return Reruns(0, 0) if choice.champion is not None else reruns


def _check_plan_of_race(race: Subject, search: _Search, report: Report) -> None:
    """Check that each block has every entrant once, in its order, with one seed that only this block has."""
    choice = race.plan.choice
    assert choice is not None
    points = [search.point(trial) for trial in choice.candidates]
    points += [] if choice.champion_point is None else [choice.champion_point]
    first = first_race_seed(search.subject.plan)
    expected = [{**point, _SEED: first + block} for block in range(choice.blocks) for point in points]
    for place, (planned, right) in enumerate(zip(race.plan.start_from, expected, strict=False)):
        report.count("runs of races")
        if planned != right:
            who = _name(choice, place % len(points))
            report.find(
                "race",
                race.id,
                f"run {place} should be {who} with seed {right[_SEED]}, but has "
                f"{_differing(planned, right)}: the race was changed",
                _AGAIN,
            )
            return
    if len(race.plan.start_from) != len(expected):
        report.find(
            "race", race.id, f"it planned {len(race.plan.start_from)} runs, not {len(expected)}: it was changed", _AGAIN
        )


def _differing(planned: Params, right: Params) -> str:
    keys = [key for key in {**right, **planned} if planned.get(key) != right.get(key)]
    return name_all(f"{key}={planned.get(key)}" for key in keys)


def _name(choice: Choice, entrant: int) -> str:
    return f"trial {choice.candidates[entrant]}" if entrant < len(choice.candidates) else "the champion"


def _decide(race: Subject, search: _Search, report: Report) -> dict[str, object]:
    """Return what the choice should say after its race, computed from the records of the runs."""
    before, choice = race.plan.choice, search.choice
    assert before is not None
    runs = _read_runs(race, before, report)
    left, missing = plain_race(runs, before.blocks)
    for entrant, block in () if race.state.is_limited else missing:
        report.find(
            "seeds",
            race.id,
            f"the run of {_name(before, entrant)} with seed {_seed_of(race, before, block)} is missing, but "
            f"it was still in the race: its seed was dropped",
            "Restore the journal from a copy, or promote again",
        )
    scores = {entrant: [score for score in found if score is not None] for entrant, found in runs.items()}
    raced = {trial: scores[entrant] for entrant, trial in enumerate(before.candidates)}
    observed = {trial: [score, *raced.get(trial, ())] for trial, score in search.scores.items()}
    posterior = plain_posterior(observed, choice.config_sd, choice.seed_sd, choice.mean)
    out = {trial for entrant, trial in enumerate(before.candidates) if None in runs[entrant]} | search.of_champion()
    dropped = {trial for entrant, trial in enumerate(before.candidates) if entrant not in left}
    beaten = {trial: value for trial, value in posterior.items() if trial not in out}
    eligible = {trial: value for trial, value in beaten.items() if trial not in dropped} or beaten
    if not eligible:
        return {}
    winner = search.rank(eligible)[0]
    own, theirs = raced.get(winner, []), scores.get(len(before.candidates), [])
    return {
        "trial": winner,
        "left": tuple(trial for entrant, trial in enumerate(before.candidates) if entrant in left),
        "race_runs": len(own),
        "race_mean": fmean(own) if own else None,
        "posterior": posterior[winner],
        "champion_mean": fmean(theirs) if theirs else None,
    }


def _read_runs(race: Subject, choice: Choice, report: Report) -> dict[int, list[float | None]]:
    """Return entrant -> its scores by block; None for a run that failed. A list ends where a run is missing."""
    width, plan = choice.num_entrants, race.plan
    by_place: dict[int, TrialRecord] = {}
    for trial, record in race.state.records.items():
        if dict(record.params) in plan.start_from:
            by_place[plan.start_from.index(dict(record.params))] = record
        else:
            report.find("race", f"{race.id}/{trial}", "this run was not planned, or has another seed", _AGAIN)
    runs: dict[int, list[float | None]] = {}
    for entrant in range(width):
        runs[entrant] = []
        for place in range(entrant, width * choice.blocks, width):
            found = by_place.get(place)
            # A limit of GPU-hours may have stopped it.
            if found is None or not found.ended or found.state is TrialState.PRUNED:
                break
            runs[entrant].append(found.value(plan.protocol) if found.state is TrialState.COMPLETE else None)
    return runs


def _seed_of(race: Subject, choice: Choice, block: int) -> object:
    return race.plan.start_from[block * choice.num_entrants].get(_SEED)


def _check_figures(
    subject: Subject, search: _Search, choice: Choice, expected: Mapping[str, object], report: Report
) -> None:
    """Check every figure of a choice against those that the runs give."""
    best = search.rank(search.scores)[0]
    singles = {trial: [score] for trial, score in search.scores.items()}
    low, high = winner_interval(list(search.scores.values()), _noise_of(choice))
    shrunk = plain_posterior(singles, choice.config_sd, choice.seed_sd, choice.mean)[best]
    right = {"raw": search.scores[best], "shrunk": shrunk, "low": low, "high": high, **expected}
    _compare(subject, choice, right, "a journal was changed, or another trial should have won", report)


def _check_noise(subject: Subject, search: _Search, report: Report) -> None:
    """Check the deviations behind a choice, if this home still has the runs that they were estimated from."""
    choice = search.choice
    own = [list(group.values()) for group in search.groups if len(group) > 1]
    # Those of the time of the choice: later promotions say more, but nobody knew that.
    replicates = [*own, *find_replicates(search.subject.plan, before=subject.plan.created)]
    num_free = sum(len(group) - 1 for group in replicates)
    source = f"{sum(map(len, replicates))} runs of {len(replicates)} configurations with several seeds"
    if (source if num_free >= LEAST_FREE else ASSUMED) != choice.noise_from:
        report.skip(
            f"The noise behind the choice of {subject.id} is not what this home gives now ({choice.noise_from}), so "
            f"the choice was checked with the noise that it names."
        )
        return
    names = ("config_sd", "seed_sd", "mean")
    found = plain_noise(replicates, list(search.scores.values()), search.num_selected_from)
    _compare(subject, choice, dict(zip(names, found, strict=True)), "its noise was changed", report)


def _compare(subject: Subject, choice: Choice, right: Mapping[str, object], why: str, report: Report) -> None:
    for name, value in right.items():
        report.count("figures of choices")
        said = getattr(choice, name)
        if not _same(said, value):
            report.find(
                "decision",
                subject.id,
                f"{name} of its choice is {_show(said)}, but the runs give {_show(value)}: {why}",
                _AGAIN,
            )


def _noise_of(choice: Choice) -> Noise:
    return Noise(choice.config_sd, choice.seed_sd, choice.mean, choice.seed_df or math.inf)


def _check_promoted(subject: Subject, search: _Search, choice: Choice, report: Report) -> None:
    """Check that the final runs have the settings of the trial that was chosen."""
    point = subject.plan.start_from[0]
    if choice.trial not in search.subject.state.records:
        return
    if _hash(search.subject.plan, search.point(choice.trial)) != _hash(subject.plan, point):
        report.find(
            "decision",
            subject.id,
            f"its final runs do not have the settings of trial {choice.trial} of {search.subject.id}, which was chosen",
            _AGAIN,
        )


def _check_verdict(subject: Subject, choice: Choice, report: Report) -> None:
    decided = subject.state.promotion
    if decided is None or choice.champion is None or decided.champion != choice.champion:
        return
    if choice.champion_point is None:
        right = "KEEP"
    elif choice.posterior is None or choice.champion_mean is None:
        right = "REFUSE"
    else:
        right = "PROMOTE" if choice.posterior > choice.champion_mean else "KEEP"
    if decided.verdict not in (right, "REFUSE"):
        report.find(
            "decision",
            subject.id,
            f"it decided {decided.verdict}, but the posterior mean {_show(choice.posterior)} against the champion's "
            f"{_show(choice.champion_mean)} gives {right}",
            _AGAIN,
        )


def _same(said: object, right: object) -> bool:
    if isinstance(said, float) and isinstance(right, int | float):
        return math.isclose(said, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return said == right


def _show(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return name_all(value) or "nobody"
    return f"{value:.4f}" if isinstance(value, float) else "nothing" if value is None else str(value)
