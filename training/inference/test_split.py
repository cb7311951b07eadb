"""Load the test split. Only :mod:`orchestrator.promotion.test_set` imports this, which first registers the opening."""

from __future__ import annotations

from training.config.run import DataConfig
from training.data.dataset_names import EMBEDDED
from training.data.digits import read_split
from training.data.registry import digits_place, open_dataset
from training.data.split import SplitData
from training.data.store.known_labels import KnownLabels
from training.inference.scores import hash_labels
from training.preparation import prepare


def load_test_split(config: DataConfig) -> SplitData:
    """Load the test split of a dataset.

    Raises:
        ConfigError, DatasetError: As :func:`training.data.registry.dataset_info`.
    """
    if config.name == EMBEDDED:
        prepare(config)
        return read_split(digits_place(config), "test", config.draw_seed)
    return open_dataset(config).test_split(config.draw_seed, KnownLabels.of(config))


def hash_split(data: SplitData) -> str:
    """Return the sha256 of the names and labels of a split, see :func:`training.inference.scores.hash_labels`."""
    return hash_labels(data.name, data.classes, data.ids, data.observed if data.true is None else data.true)
