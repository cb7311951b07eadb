"""Choose which labels of a store a run observes: drawn or given positives, and given negatives or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.config.run import DataConfig, Negatives, Positives
from training.data.sources.annotations import join_negatives
from training.data.store.label_table import LabelTable
from training.errors import ConfigError


@dataclass(frozen=True)
class KnownLabels:
    """What a run observes.

    Attributes:
        positives: ``drawn``, ``given``, or None for given ones where there are any.
        negatives: ``none``, ``given`` (all that are known), or one way to know them.
    """

    positives: Positives | None = None
    negatives: Negatives = "none"

    @classmethod
    def of(cls, config: DataConfig) -> KnownLabels:
        """Return the choice of a run's settings."""
        return cls(config.positives, config.negatives)

    def draws(self, table: LabelTable) -> bool:
        """Return whether the observed positives of an official phase are drawn from its true labels."""
        return table.observed is None or (self.positives == "drawn" and table.true is not None)

    def negative(self, table: LabelTable) -> NDArray[np.bool_] | None:
        """Return the labels that are known to be negative (N, C), or None."""
        if self.negatives == "none" or not table.negatives:
            return None
        if self.negatives == "given":
            return join_negatives(table.negatives)
        return table.negatives[self.negatives]

    def is_known(self, table: LabelTable) -> NDArray[np.bool_]:
        """Return which images (N,) can be learnt from: without true labels, those of which a label is known."""
        if table.true is not None or table.observed is None:
            return np.ones(len(table), bool)
        negative = self.negative(table)
        known = table.observed if negative is None else table.observed | negative
        return np.asarray(known.any(1), bool)

    def require(self, train: LabelTable, name: str) -> None:
        """Check that a dataset gives the labels of the training images that this asks for.

        Args:
            train: Labels of the official training set.
            name: Name of the dataset.

        Raises:
            ConfigError: It does not; the message has the setting that fits.
        """
        if self.positives == "given" and train.observed is None:
            raise ConfigError(
                f"data.positives=given needs observed labels, but {name} gives all true ones, from which one per image "
                "is drawn. Set data.positives=drawn, or prepare a folder with observed.csv",
                "data.positives",
            )
        if self.positives == "drawn" and train.true is None:
            raise ConfigError(
                f"data.positives=drawn needs true labels to draw from, but {name} gives only observed ones. "
                "Set data.positives=given",
                "data.positives",
            )
        if self.negatives != "none":
            self._require_negatives(train, name)

    def _require_negatives(self, train: LabelTable, name: str) -> None:
        if not train.negatives:
            raise ConfigError(
                f"data.negatives={self.negatives} needs labels that are known to be negative, but {name} gives none. "
                "Set data.negatives=none; in observed.csv of your own data, -1 is a known negative",
                "data.negatives",
            )
        kinds = ["none", "given", *(kind for kind in train.negatives if kind != "given")]
        if self.negatives not in kinds:
            raise ConfigError(
                f"data.negatives must be one of {', '.join(kinds)} for {name}, but got data.negatives={self.negatives}",
                "data.negatives",
            )


ANY_LABELS = KnownLabels()
"""Given positives where there are any, drawn ones elsewhere, and no negatives."""


def all_known(train: LabelTable) -> KnownLabels:
    """Return the choice of everything that is known of a dataset, by the labels of its official training set."""
    return KnownLabels(negatives="given") if train.negatives else ANY_LABELS
