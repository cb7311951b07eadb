"""Audit the choice of a winner: was it only lucky?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from orchestrator.audit.findings import Report
from orchestrator.audit.subject import Subject
from orchestrator.planning.config_hash import hash_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.rule import estimate_noise, mean_interval, shrunken_means
from training.config.run import Scalar


def audit_choice(subject: Subject, parent: Subject, race: Subject | None, report: Report) -> None:
    """Check that a promoted configuration is still the best one once its fresh runs are known.

    The score that chose it is too high by selection. With the noise between its seeds, every configuration of the
    search gets its posterior mean, from all its runs. If another one is then ahead by more than the standard error of
    the fresh runs, luck has decided.

    Args:
        subject: A promotion.
        parent: The search that it promoted from.
        race: The race that chose, if it was promoted by the rule.
        report: Where findings go.
    """
    observed = _observe([parent, *([] if race is None else [race]), subject])
    names, promoted = list(observed), _hash(subject.plan, subject.final_points[0])
    known = dict(enumerate(observed.values()))
    winner = names.index(promoted) if promoted in names else -1
    runs = known.get(winner, [])
    if len(known) < 2 or not runs:
        return
    # The first score of each configuration is that of the search.
    first, fresh = runs[0], runs[1:]
    if len(fresh) < 2:
        report.skip(f"{subject.id} has one fresh seed, so luck cannot be told from skill in its choice.")
        return
    report.count("choices of winners")
    noise = estimate_noise([scores[1:] for scores in known.values() if len(scores) > 2], _firsts(known), selected=True)
    posterior = shrunken_means(known, noise)
    ahead = max(posterior, key=lambda number: posterior[number])
    (low, high), mean = mean_interval(fresh), fmean(fresh)
    # The half-length of an interval for one more run instead of one for the mean.
    half = (high - mean) * math.sqrt(len(fresh) + 1)
    where = f"its configuration won in {parent.id} with {first:.2f}, but its fresh seeds have {mean:.2f}"
    if posterior[ahead] - posterior[winner] > noise.seed_sd / math.sqrt(len(fresh)):
        report.find(
            "luck",
            subject.id,
            f"{where} "
            f"({low:.2f} to {high:.2f}). Another configuration, which had {known[ahead][0]:.2f}, is expected to be "
            f"better ({posterior[ahead]:.2f} against {posterior[winner]:.2f}): the winner was only lucky",
            f"Never report {first:.2f}. Let several candidates race: orchestrator promote {parent.id}",
        )
    elif first > mean + half:
        report.find(
            "luck",
            subject.id,
            f"{where}, and 95 % of its runs lie below {mean + half:.2f}: the winner was only lucky",
            f"Never report {first:.2f}, only the mean of the fresh seeds",
        )


def _observe(subjects: Sequence[Subject]) -> dict[str, list[float]]:
    """Return the scores of each configuration of a search, which comes first: then those of race and promotion."""
    known: dict[str, list[float]] = {}
    for which in subjects:
        for record in which.complete.values():
            name, value = _hash(which.plan, record.params), record.value(which.plan.protocol)
            # A promotion may also have run the champion, which is none of the search, and other label draws.
            if "data.draw_seed" in record.params and which is not subjects[0]:
                continue
            if value is not None and (which is subjects[0] or name in known):
                known.setdefault(name, []).append(value)
    return known


def _firsts(known: Mapping[int, list[float]]) -> list[float]:
    return [scores[0] for scores in known.values()]


def _hash(plan: SweepPlan, params: Mapping[str, Scalar]) -> str:
    return hash_config(trial_config(plan, params).flatten())
