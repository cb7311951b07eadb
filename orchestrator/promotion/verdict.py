"""Decide a promotion: whether the final runs beat the champion. Pure functions; nothing is read or written."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.planning.choice import Choice
from orchestrator.provenance import UNKNOWN

COMPARED_KEYS = ("dataset", "data_hash", "model", "weights_hash", "recipe", "select_config_by", "select_epoch_by")
"""What two results must share to be compared. Together these keys name a registered model."""
SET_UP_KEYS = {
    "data.image_size": "image size",
    "data.normalisation": "normalisation",
    "data.augment_order": "order of augmentation",
    "optim.name": "optimiser",
    "optim.schedule": "schedule",
    "loop.epochs": "number of epochs",
    "loop.precision": "precision",
}
"""Settings that are the same for all methods of a space; within one recipe they differ only if a user changed them."""
MARKED_KEYS = {"draw_seed": "label-draw seed", "world_size": "world size", **SET_UP_KEYS}
"""What may differ between two results; differences are reported."""


class Verdict(StrEnum):
    """The possible decisions on a promotion."""

    PROMOTE = "PROMOTE"
    KEEP = "KEEP"
    REFUSE = "REFUSE"


@dataclass(frozen=True)
class Result:
    """The figures of one configuration trained with several seeds.

    Attributes:
        name: A promotion's id, or a registered version.
        identity: ``COMPARED_KEYS`` and ``MARKED_KEYS`` -> value.
        values: The selection metric in percent per seed, on the sweep's label draw; None where a run has no result.
        further: The same on further label draws, if there are any. They decide nothing.
    """

    name: str
    identity: Mapping[str, str]
    values: tuple[float | None, ...]
    further: tuple[float | None, ...] = ()

    @property
    def mean(self) -> float:
        """The mean over the seeds that have a result."""
        return statistics.fmean(value for value in self.values if value is not None)

    @property
    def is_complete(self) -> bool:
        """Whether every run has a result."""
        return bool(self.values) and None not in (*self.values, *self.further)

    def __str__(self) -> str:
        listed = ", ".join("none" if value is None else f"{value:.2f}" for value in self.values)
        return f"{self.mean:.2f} ({listed})" if any(value is not None for value in self.values) else f"({listed})"


@dataclass(frozen=True)
class Decision:
    """A verdict and the figures that led to it.

    Attributes:
        marks: Differences that do not prevent a comparison.
    """

    verdict: Verdict
    reason: str
    marks: tuple[str, ...] = ()


def registered_name(identity: Mapping[str, str]) -> str:
    """Return ``<dataset>.<model>.<select_config_by>.<select_epoch_by>.<8 hex of the hash of the compared keys>``."""
    # The hash separates results that differ only in keys that the readable part does not show.
    compared = {key: identity[key] for key in COMPARED_KEYS}
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:8]
    model = json.loads(identity["model"])["name"]
    return f"{identity['dataset']}.{model}.{identity['select_config_by']}.{identity['select_epoch_by']}.{digest}"


def decide(
    challenger: Result, champion: Result | None, others: Sequence[Result] = (), choice: Choice | None = None
) -> Decision:
    """Decide on a promotion.

    The challenger wins if there is no champion yet. By the rule, it wins if its posterior mean is above the champion's
    mean in their race: the reported seeds choose nothing. By best score, it wins if its mean over the seeds is strictly
    higher, by the selection metric on validation data.

    Args:
        challenger: The final runs.
        champion: The current champion under the same conditions, or None.
        others: Champions of the dataset under other conditions. They are named in the decision, so that the first
            result under its conditions is not mistaken for the best.
        choice: What the rule chose; None is by best score.

    Returns:
        PROMOTE, KEEP, or REFUSE if the two cannot be compared.
    """
    # A mean over only the surviving seeds would favour configurations that sometimes diverge.
    if not challenger.is_complete:
        which = "" if None in challenger.values else ", on a further label draw"
        return Decision(Verdict.REFUSE, f"not every final run of {challenger.name} has a result{which}: {challenger}")
    # Two unknown hashes would compare as equal.
    unknown = [key for key in COMPARED_KEYS if challenger.identity.get(key, UNKNOWN) == UNKNOWN]
    if unknown:
        return Decision(
            Verdict.REFUSE, f"{', '.join(unknown)} of {challenger.name} is unknown, so nothing can be compared with it"
        )
    if champion is None:
        marks = tuple(_apart(challenger, other) for other in others)
        return Decision(Verdict.PROMOTE, f"{challenger} is the first result under these conditions", marks)
    # A champion of the same name has the same keys, unless someone edited its tags in MLflow.
    different = _differences(challenger, champion, COMPARED_KEYS)
    if different:
        return Decision(
            Verdict.REFUSE,
            f"{challenger} cannot be compared with {champion} of {champion.name}: {'; '.join(different)}",
        )
    # Differences that make a comparison less reliable, but do not prevent it.
    marks = _marks(challenger, champion)
    if choice is not None:
        if choice.champion == champion.name:
            return _decide_by_race(choice, champion, marks)
        marks = (*marks, f"{champion.name} took no part in the race, so the reported seeds decided")
    # Strictly higher: a tie keeps the champion, so that repeating a promotion changes nothing.
    if challenger.mean > champion.mean:
        return Decision(Verdict.PROMOTE, f"{challenger} is higher than {champion} of {champion.name}", marks)
    return Decision(Verdict.KEEP, f"{challenger} is not higher than {champion} of {champion.name}", marks)


def _decide_by_race(choice: Choice, champion: Result, marks: tuple[str, ...]) -> Decision:
    if choice.champion_point is None:
        return Decision(Verdict.KEEP, f"trial {choice.trial} has the settings of {champion.name}", marks)
    if choice.posterior is None or choice.champion_mean is None:
        return Decision(Verdict.REFUSE, f"{champion.name} has no result in the race {choice.race}", marks)
    is_higher = choice.posterior > choice.champion_mean
    higher = "higher" if is_higher else "not higher"
    reason = (
        f"the posterior mean {choice.posterior:.2f} of trial {choice.trial} is {higher} than "
        f"the mean {choice.champion_mean:.2f} of {champion.name} in the race {choice.race}"
    )
    return Decision(Verdict.PROMOTE if is_higher else Verdict.KEEP, reason, marks)


def _apart(challenger: Result, other: Result) -> str:
    different = "; ".join(_differences(challenger, other, COMPARED_KEYS))
    return f"a champion under other conditions, which it cannot be compared with: {other} of {other.name} ({different})"


def _marks(challenger: Result, champion: Result) -> tuple[str, ...]:
    # A champion that an earlier version registered lacks some of the keys.
    known = {key: name for key, name in MARKED_KEYS.items() if key in champion.identity}
    marks = _differences(challenger, champion, known)
    # A mean over more seeds is less noisy, and readers should know.
    if len(challenger.values) != len(champion.values):
        marks.append(f"number of seeds is {len(challenger.values)} and not {len(champion.values)}")
    return tuple(marks)


def _differences(challenger: Result, champion: Result, keys: tuple[str, ...] | dict[str, str]) -> list[str]:
    names = keys if isinstance(keys, dict) else {key: key for key in keys}
    pairs = {name: (challenger.identity.get(key), champion.identity.get(key)) for key, name in names.items()}
    return [f"{name} is {ours} and not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
