"""Plan the race of a promotion by the rule, and choose by what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.durations import format_seconds
from orchestrator.errors import UserError
from orchestrator.planning.choice import Choice
from orchestrator.planning.cost import count_race_runs
from orchestrator.planning.follow_up import FreshSeeds, make_promotion_plan, make_race_plan
from orchestrator.planning.sweep_plan import Params, SweepPlan, trial_config
from orchestrator.promotion.noise import find_replicates, gather_trials, know_noise
from orchestrator.promotion.rule import Noise, Reruns, choose_reruns, shrunken_means, winner_interval
from orchestrator.sweep_folder.checkpoints import find_storage
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.trials.race_blocks import read_race
from training.counts import counted

_PILOT = Reruns(2, 3)
_CHAMPION_BLOCKS = 3
# Scores that agree this far are tied: their difference is one of rounding.
_DIGITS = 6


@dataclass(frozen=True)
class Champion:
    """The champion that a promotion is compared with.

    Attributes:
        version: ``NAME/VERSION``.
        point: Its settings, where they differ from the sweep's base.
    """

    version: str
    point: Params


def default_budget(plan: SweepPlan, records: Sequence[TrialRecord]) -> int:
    """Return the runs that a race may have by default: half of what the sweep took, in runs of full length."""
    epochs = sum(record.last_epoch for record in records)
    return count_race_runs(epochs / plan.epochs)


def plan_choice(
    plan: SweepPlan,
    records: Sequence[TrialRecord],
    champion: Champion | None,
    *,
    seeds: int,
    workers: int,
    budget: int | None = None,
) -> Choice:
    """Return what the rule chooses before anything runs again, and how much that is to be.

    Args:
        plan: The sweep.
        records: Its trials, one of them COMPLETE with a score.
        champion: Who is to be beaten, if anybody.
        seeds: Fresh seeds that are reported.
        workers: Ray Train workers of a final run.
        budget: Most runs of candidates; None is :func:`default_budget`.
    """
    trials = gather_trials(plan, records)
    noise, source = know_noise(trials, find_replicates(plan))
    if budget is None:
        budget = default_budget(plan, records)
    ranked = sorted(trials.scores, key=lambda trial: rank_key(trials.scores[trial], trials.costs[trial], trial))
    reruns = choose_reruns(list(trials.scores.values()), noise, budget)
    if noise.seed_df == float("inf") and len(ranked) > 1 and reruns.num_runs < _PILOT.num_runs <= budget:
        reruns = _PILOT  # nothing is known about the noise, so a few runs have to tell it
    theirs = _find_champion(plan, records, None if champion is None else champion.point)
    if theirs and ranked[0] in theirs:
        champion_point, reruns = None, Reruns(0, 0)  # the winner is the champion: there is nothing to choose
    elif champion is not None:
        champion_point, reruns = champion.point, Reruns(max(1, reruns.k), max(_CHAMPION_BLOCKS, reruns.m))
    else:
        champion_point = None
    candidates = [trial for trial in ranked if trial not in theirs][: reruns.k]
    known = {trial: [score] for trial, score in trials.scores.items()}
    low, high = winner_interval(list(trials.scores.values()), noise)
    return Choice(
        trial=ranked[0],
        raw=trials.scores[ranked[0]],
        shrunk=shrunken_means(known, noise)[ranked[0]],
        low=low,
        high=high,
        **_of_noise(noise, source),
        candidates=tuple(candidates),
        blocks=reruns.m,
        budget=budget,
        num_trials=len(records),
        seeds=seeds,
        workers=workers,
        champion=None if champion is None else champion.version,
        champion_point=champion_point,
    )


def _of_noise(noise: Noise, source: str) -> dict[str, Any]:
    df = None if noise.seed_df == float("inf") else noise.seed_df
    return {
        "config_sd": noise.config_sd,
        "seed_sd": noise.seed_sd,
        "mean": noise.mean,
        "seed_df": df,
        "noise_from": source,
    }


def rank_key(score: float, cost_s: float, trial: int) -> tuple[float, float, int]:
    """Return what sorts the best first: the higher score, then the cheaper, then the earlier trial."""
    return -round(score, _DIGITS), cost_s, trial


def point_of(records: Sequence[TrialRecord], trial: int) -> Params:
    """Return a trial's params without its training seed."""
    params = next(record.params for record in records if record.trial == trial)
    return {key: value for key, value in params.items() if key != "loop.seed"}


def _find_champion(plan: SweepPlan, records: Sequence[TrialRecord], point: Params | None) -> set[int]:
    """Return the trials that have the settings of the champion, if it has any."""
    if point is None:
        return set()
    settings = trial_config(plan, point)
    own = {"loop.seed": settings.loop.seed}
    return {record.trial for record in records if trial_config(plan, {**record.params, **own}) == settings}


def make_race(
    plan: SweepPlan,
    records: Sequence[TrialRecord],
    choice: Choice,
    label_draws: tuple[int, ...] | None = None,
    suite: str | None = None,
) -> SweepPlan:
    """Return the plan of a race, perhaps of a benchmark; the label draws are those of the final runs to come."""
    points = [point_of(records, trial) for trial in choice.candidates]
    if choice.champion_point is not None:
        points.append(choice.champion_point)
    return make_race_plan(plan, points, choice, find_storage(plan), label_draws, suite)


def make_final(
    plan: SweepPlan,
    records: Sequence[TrialRecord],
    choice: Choice,
    label_draws: tuple[int, ...] | None = None,
    fresh: FreshSeeds | None = None,
) -> SweepPlan:
    """Return the plan of the final runs of a choice, with the seeds of a benchmark if they are part of one."""
    return make_promotion_plan(
        plan,
        point_of(records, choice.trial),
        seeds=choice.seeds,
        workers=choice.workers,
        storage=find_storage(plan),
        choice=choice,
        label_draws=label_draws,
        fresh=fresh,
    )


def settle_choice(
    plan: SweepPlan, records: Sequence[TrialRecord], race: SweepPlan, race_records: Sequence[TrialRecord]
) -> Choice:
    """Choose by the posterior means of all runs of the sweep and the race.

    Args:
        plan: The sweep.
        records: Its trials.
        race: The plan of the race.
        race_records: Its runs, all of which have ended.

    Raises:
        UserError: Every candidate has failed.
    """
    before = race.choice
    assert before is not None
    trials, found = gather_trials(plan, records), read_race(race, race_records)
    raced = {trial: found.scores[entrant] for entrant, trial in enumerate(before.candidates)}
    # The score of the sweep chose the candidates, so only their further runs tell the noise.
    noise, source = know_noise(trials, find_replicates(plan))
    observed = {trial: [score, *raced.get(trial, ())] for trial, score in trials.scores.items()}
    posterior = shrunken_means(observed, noise)
    entrants = dict(enumerate(before.candidates))
    out = {entrants[entrant] for entrant in found.failed if entrant in entrants}
    out |= _find_champion(plan, records, before.champion_point)
    dropped = {trial for entrant, trial in entrants.items() if entrant not in found.left}
    # If only the champion is left, the best of those that it has beaten is still the sweep's winner.
    beaten = [trial for trial in posterior if trial not in out]
    eligible = [trial for trial in beaten if trial not in dropped] or beaten
    if not eligible:
        raise UserError(
            f"Every candidate of {race.id} has failed with a fresh seed, so there is nothing to promote. See why: "
            f"orchestrator leaderboard {race.id}"
        )
    winner = min(eligible, key=lambda trial: rank_key(posterior[trial], trials.costs[trial], trial))
    low, high = winner_interval(list(trials.scores.values()), noise)
    own = raced.get(winner, ())
    theirs = found.scores.get(len(before.candidates), ()) if before.champion_point is not None else ()
    return replace(
        before,
        trial=winner,
        shrunk=shrunken_means({trial: [score] for trial, score in trials.scores.items()}, noise)[before.trial],
        low=low,
        high=high,
        **_of_noise(noise, source),
        race=race.id,
        left=tuple(trial for entrant, trial in entrants.items() if entrant in found.left),
        race_mean=sum(own) / len(own) if own else None,
        race_runs=len(own),
        posterior=posterior[winner],
        champion_mean=sum(theirs) / len(theirs) if theirs else None,
    )


def describe_cost(
    plan: SweepPlan, records: Sequence[TrialRecord], choice: Choice, label_draws: tuple[int, ...] | None = None
) -> list[str]:
    """Return, as sentences, what a promotion will run, before it starts."""
    entrants = choice.num_entrants
    num_draws = max(1, len(label_draws or ()))
    num_final = choice.seeds * num_draws * (2 if choice.champion_point is not None else 1)
    lines = [
        f"noise: deviation {choice.seed_sd:.2f} between seeds, {choice.config_sd:.2f} between configurations "
        f"({choice.noise_from})"
    ]
    if entrants:
        who = counted(len(choice.candidates), "candidate")
        who += " and the champion" if choice.champion_point is not None else ""
        lines.append(
            f"race: {who} x {choice.blocks} seeds, at most {entrants * choice.blocks} runs of {plan.epochs} epochs"
        )
    elif choice.champion is not None:
        lines.append(f"race: none, as the best trial has the settings of {choice.champion}")
    elif choice.config_sd == 0:
        lines.append("race: none, as there is nothing to choose between")
    else:
        lines.append("race: none, as further trials would be worth more than further runs of the best")
    rest = choice.budget - len(choice.candidates) * choice.blocks
    if rest > 0 and choice.config_sd > 0:
        lines.append(
            f"left of the {choice.budget} runs that it might have had: {rest}, better spent on further trials: "
            f"orchestrator extend {plan.id} --trials +{rest}"
        )
    both = " each for the winner and the champion" if choice.champion_point is not None else ""
    on = f" on each of {num_draws} label draws" if num_draws > 1 else ""
    lines.append(f"report: {counted(choice.seeds, 'fresh seed')}{both}{on}, {num_final} runs that choose nothing")
    if label_draws == ():
        lines.append(f"labels: {plan.dataset} gives its observed labels, so there is nothing to draw: only seeds vary")
    ran = [record for record in records if record.last_epoch]
    num_runs = entrants * choice.blocks + num_final
    epoch_s = sum(record.held_s for record in ran) / sum(record.last_epoch for record in ran)
    lines.append(
        f"cost: at most {counted(num_runs, 'run')}, about {format_seconds(num_runs * plan.epochs * epoch_s)} of "
        f"training in all"
    )
    return lines
