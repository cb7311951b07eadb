"""Define the protocol of model selection: which labels choose the configuration, and which choose the epoch.

Every metric, run, leaderboard and champion carries its protocol, ``select_config_by`` x ``select_epoch_by``. The
literature selects on fully labelled validation data (``clean-val``). A user who has only single positives cannot do
that, and selects by a criterion that needs observed labels alone: ``observed-val``, ``covering-rate`` or
``unbiased-risk`` (:mod:`training.criteria`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from training.metric_names import VAL_COVERING_RATE, VAL_ESTIMATED_ACCURACY, VAL_MAP, VAL_OBSERVED_MAP


class SelectBy(StrEnum):
    """What chooses a configuration or an epoch."""

    PUBLISHED = "published"
    """The published settings, without a search (configurations only)."""
    CLEAN_VAL = "clean-val"
    """mAP on the true validation labels."""
    OBSERVED_VAL = "observed-val"
    """mAP on the observed validation labels: one positive per image, the rest taken as negative."""
    COVERING_RATE = "covering-rate"
    """How often the observed label is among the highest scores."""
    UNBIASED_RISK = "unbiased-risk"
    """The risk on the unknown true labels, estimated from observed positives and class priors."""
    LAST = "last"
    """The last epoch (epochs only)."""


LABEL_FREE = {
    SelectBy.OBSERVED_VAL: VAL_OBSERVED_MAP,
    SelectBy.COVERING_RATE: VAL_COVERING_RATE,
    SelectBy.UNBIASED_RISK: VAL_ESTIMATED_ACCURACY,
}
"""What chooses by observed labels alone -> its metric; higher is better for each."""


_LISTED = " or ".join((", ".join(list(LABEL_FREE)[:-1]), list(LABEL_FREE)[-1]))


@dataclass(frozen=True)
class Protocol:
    """``select_config_by`` x ``select_epoch_by``.

    Raises:
        ValueError: ``last`` was given for the configuration, or ``published`` for the epoch.
    """

    select_config_by: SelectBy = SelectBy.CLEAN_VAL
    select_epoch_by: SelectBy = SelectBy.CLEAN_VAL

    def __post_init__(self) -> None:
        if self.select_config_by is SelectBy.LAST:
            raise ValueError(f"select_config_by must be published, clean-val, {_LISTED}, but got last")
        if self.select_epoch_by is SelectBy.PUBLISHED:
            raise ValueError(f"select_epoch_by must be clean-val, last, {_LISTED}, but got published")

    @property
    def metric(self) -> str:
        """The metric that ranks configurations at the chosen epoch, and that ASHA reads at every epoch."""
        if self.select_config_by is SelectBy.PUBLISHED:
            return epoch_metric(self.select_epoch_by)
        return epoch_metric(self.select_config_by)

    def __str__(self) -> str:
        return f"{self.select_config_by} x {self.select_epoch_by}"


def epoch_metric(select_by: SelectBy) -> str:
    """Return the metric that a way to select stands for; ``last`` displays that of clean-val."""
    return LABEL_FREE.get(select_by, VAL_MAP)


def choose_epoch(metrics: Mapping[int, Mapping[str, float]], select_epoch_by: SelectBy) -> int | None:
    """Return the epoch whose weights count: the best by its metric (the earliest of equals), or the last.

    Args:
        metrics: For each epoch (from 1), the value of each metric by name.
        select_epoch_by: ``clean-val``, ``observed-val`` or ``last``.

    Returns:
        The epoch, or None if no epoch has the metric.
    """
    if not metrics:
        return None
    if select_epoch_by is SelectBy.LAST:
        return max(metrics)
    name = epoch_metric(select_epoch_by)
    scored = {epoch: values[name] for epoch, values in metrics.items() if values.get(name) is not None}
    if not scored:
        return None
    # The epoch as the second key, so that the earliest of equals is chosen whatever the order of the mapping.
    return min(scored, key=lambda epoch: (-scored[epoch], epoch))


def choose_value(metrics: Mapping[int, Mapping[str, float]], protocol: Protocol) -> float | None:
    """Return the value that ranks a run: ``protocol.metric`` at the epoch that ``select_epoch_by`` chooses."""
    epoch = choose_epoch(metrics, protocol.select_epoch_by)
    return None if epoch is None else metrics[epoch].get(protocol.metric)
