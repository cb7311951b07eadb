"""Say in words what a sweep found: who won, by how much, whether that is noise, what tau does, what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.durations import format_hours, format_seconds
from orchestrator.promotion.rule import Noise, winner_interval
from orchestrator.report.cost_figures import count_causes
from orchestrator.report.openings import Openings
from orchestrator.report.parameter_figures import MIN_TRIALS, Effect
from orchestrator.report.statistics import Agreement, least_difference, winners_curse
from orchestrator.report.view import FIRST_KEYS, TAU, SweepView
from orchestrator.results.spending import sum_spending
from orchestrator.sweep_folder.records import TrialState
from training.config.run import Scalar
from training.counts import counted

_NAMES = dict(zip(FIRST_KEYS, ("tau", "SPBC weight", "reg weight"), strict=True))
_GOOD_CORRELATION = 0.8
_SEEDS_OF_INTERVAL = 5
"""With fewer, an interval for the winner is so wide that it says nothing."""


def describe_winner(view: SweepView) -> list[str]:
    """Say which trial won, by how much, and whether that is more than seed noise."""
    winner = view.winner
    if winner is None:
        return [f"No trial is complete yet, so there is no winner. {_count_states(view)}"]
    score = view.complete[winner.trial]
    epoch = winner.chosen_epoch(view.plan.protocol)
    if view.plan.kind == "train":
        return [f"The run scored {score:.2f} % {view.metric} at epoch {epoch} of {view.plan.epochs}."]
    settings = ", ".join(f"{_short(key)} {_plain(value)}" for key, value in _sorted(winner.params))
    found = [
        f"Trial {winner.trial} won with {score:.2f} % {view.metric} at epoch {epoch} of {view.plan.epochs}"
        + (f": {settings}." if settings else ".")
    ]
    if len(view.ranking) > 1:
        found.append(_describe_lead(view, score))
    return found


def describe_ablation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the complete method scores, and how far each variant is from it, by rows of ``tabulate_ablation``."""
    known = [row for row in rows if row["mean"] is not None]
    if not known:
        return ["No variant has a complete run yet."]
    found = [
        f"{known[0]['variant']} has a mean of {known[0]['mean']:.2f} % over {counted(known[0]['num_seeds'], 'seed')}."
    ]
    for row in known[1:]:
        if row["difference"] is not None:
            apart, spread = row["difference"], row["difference_deviation"]
            how = "" if spread is None else f" (deviation over seeds {spread:.2f}, seed by seed)"
            found.append(f"{row['variant']}: {apart:+.2f} points from that{how}.")
    return found


def _describe_lead(view: SweepView, score: float) -> str:
    second = view.ranking[1]
    lead = score - view.complete[second]
    text = f"It leads trial {second}, the second of {len(view.ranking)} complete trials, by {lead:.2f} points."
    noise = view.noise
    if noise is None:
        command = f"orchestrator promote {view.plan.id}"
        return f"{text} Whether that is more than seed noise is not known yet: `{command}` tells."
    limit = least_difference(noise.deviation.value, noise.num_seeds)
    tied = sum(score - view.complete[trial] < limit for trial in view.ranking) - 1
    verdict = "That is more than seed noise" if lead > limit else "That is not more than seed noise"
    others = f"{counted(tied, 'other trial')} cannot be told from it" if tied else "no other trial comes as close"
    return (
        f"{text} {verdict}: two single runs differ by up to {limit:.2f} points from seed to seed, by the "
        f"{noise.num_seeds} final runs of {noise.source} (deviation {noise.deviation.value:.2f}, 95 % interval "
        f"{noise.deviation.low:.2f} to {noise.deviation.high:.2f}); {others}."
    )


def describe_curse(view: SweepView) -> str | None:
    """Say by how much the best score is expected to be too high, as far as the seeds' deviation is known."""
    scores = list(view.complete.values())
    if view.noise is None or len(scores) < 3:
        return None
    curse = winners_curse(view.noise.deviation.value, statistics.stdev(scores), len(scores))
    text = (
        f"As the best of {len(scores)} single runs, the winning score is expected to be about {curse:.2f} points too "
        f"high (winner's curse)"
    )
    if view.noise.num_seeds >= _SEEDS_OF_INTERVAL:
        # Only the deviation between seeds matters here.
        noise = Noise(0.0, view.noise.deviation.value, seed_df=view.noise.num_seeds - 1)
        low, high = winner_interval(scores, noise)
        text += f"; from the sweep alone, its mean over seeds lies between {low:.2f} and {high:.2f} (95 % interval)"
    return f"{text}. Quote the final runs of a promotion instead."


def describe_effects(view: SweepView, effects: Sequence[Effect]) -> list[str]:
    """Say what tau and the weights do, tau first."""
    named = {effect.parameter.key: effect for effect in effects if effect.parameter.key in _NAMES}
    found = [_describe_effect(effect, _NAMES[key]) for key, effect in named.items()]
    tau = view.plan.base.get(TAU)
    if view.parameter(TAU) is None and isinstance(tau, float):
        found.insert(0, f"Tau was fixed at {tau:g}, so this sweep does not say what it does.")
    elif not effects and view.parameters:
        found.append(f"With fewer than {MIN_TRIALS} trials, nothing can be said about parameters.")
    others = [effect for effect in effects if effect.parameter.key not in _NAMES and not effect.is_noise]
    if others:
        listed = ", ".join(
            f"{each.parameter.name} ({each.change:.1f} points, best near {each.best})" for each in others
        )
        found.append(f"Of the other settings, these have an effect: {listed}.")
    elif len(effects) > len(named):
        found.append("Of the other settings, none has an effect that these trials could show.")
    return found


def _describe_effect(effect: Effect, name: str) -> str:
    over = f"from {effect.over} the score changes by {effect.change:.2f} points"
    if effect.is_noise:
        return f"{_capital(name)}: no effect seen; {over}, which is not more than noise (p = {effect.probability:.2f})."
    return (
        f"{_capital(name)}: {over}, best near {effect.best}; that is more than noise (p = {effect.probability:.3f}, "
        f"corrected for the number of settings)."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe_cost(view: SweepView) -> str:
    """Say what the sweep cost, and how much of it came to nothing."""
    spending = sum_spending(view.plan, view.state)
    took = format_seconds(view.state.driven_s())
    subject = "It" if len(view.trials) == 1 else "They"
    text = f"{_count_states(view)} {subject} cost {format_hours(spending.spent)} {spending.unit} within {took}"
    if (planned := spending.planned) is not None:
        text += f"; planned were {planned}"
    if shares := spending.shares:
        text += f"; of the workers' time, {', '.join(shares)}"
    limited = "" if view.state.early_end is None else f" It ended early: {view.state.early_end}."
    return f"{text}.{limited}"


def _count_states(view: SweepView) -> str:
    counts = {str(state).lower(): sum(record.state is state for record in view.trials) for state in TrialState}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    num = len(view.trials)
    return f"{counted(num, 'trial')} started" + (f": {listed}." if listed else ".")


def describe_failures(view: SweepView) -> str | None:
    """Say what failed, or None."""
    causes = count_causes(view)
    return f"Failed: {causes}. Failed trials have no rank and are left out of every curve." if causes else None


def describe_agreement(view: SweepView, found: Mapping[int, Agreement]) -> str | None:
    """Say from which epoch on the order of trials is much like the final one."""
    if not found:
        return None
    good = next(
        (
            epoch
            for epoch in found
            if all(found[later].correlation.value >= _GOOD_CORRELATION for later in found if later >= epoch)
        ),
        None,
    )
    if good is None:
        return (
            f"No epoch before the last orders the trials much like the last (rank correlation {_GOOD_CORRELATION} or "
            f"more), so stopping early by score is a gamble here."
        )
    each = found[good].correlation
    return (
        f"From epoch {good} on, the order of trials is much like the final one (rank correlation {each.value:.2f}, "
        f"95 % interval {each.low:.2f} to {each.high:.2f})."
    )


def describe_openings(openings: Openings) -> str:
    """Say how often the test split was opened: for this data by the ledger, and for this sweep by its promotions."""
    listed = "; ".join(f"{each.promotion}: {each.scores}" for each in openings.own)
    own = f"{_opened(len(openings.own))} for this sweep{'. ' + listed if listed else ''}."
    ledger = describe_ledger(openings)
    if openings.of_data == 0 and not openings.own and ledger is not None:
        return ledger
    if ledger is None:
        return f"As far as this home knows, the test split was {own}"
    return f"{ledger} It was {own}"


def describe_ledger(openings: Openings) -> str | None:
    """Say how often the test split of the data was opened by the ledger, or None if that does not know the data."""
    if openings.problem is not None:
        return f"The test ledger of this home is damaged, so openings may be missing: {openings.problem}"
    if openings.of_data is None:
        return None
    if openings.of_data < len(openings.own):
        return "The ledger of this home lacks openings of the test split by versions without a ledger."
    opened = _opened(openings.of_data) + " in all" * (openings.of_data > 0)
    return f"By the ledger of this home, the test split of this data was {opened}."


def _opened(number: int) -> str:
    return "never opened" if number == 0 else f"opened {name_times(number)}"


def name_times(number: int) -> str:
    """Return how often, in words: never, once, 2 times."""
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def _sorted(params: Mapping[str, Scalar]) -> Iterator[tuple[str, Scalar]]:
    rank = {key: place for place, key in enumerate(FIRST_KEYS)}
    yield from sorted(params.items(), key=lambda pair: rank.get(pair[0], len(rank)))


def _short(key: str) -> str:
    return _NAMES.get(key, key.rsplit(".", 1)[-1])


def _plain(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
