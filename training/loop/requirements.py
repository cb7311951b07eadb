"""Check that method, model and data of a run fit together, once all are there."""

from __future__ import annotations

from training.config.run import TrainConfig
from training.data.split import SplitData
from training.errors import ConfigError
from training.methods.base import Method, Sizes
from training.selection import LABEL_FREE, SelectBy


def check_requirements(config: TrainConfig, method: Method, sizes: Sizes, train: SplitData, val: SplitData) -> None:
    """Check that a method gets the embeddings and labels that it needs, and the selection its labels.

    Raises:
        ConfigError: Something is missing.
    """
    if method.needs_embeddings and sizes.embedding_dim is None:
        raise ConfigError(
            f"Method {config.method.name} needs a model with an embedding per class, which "
            f"model.name={config.model.name} does not have. Use model.name=query2label",
            "model.name",
        )
    if method.needs_true_labels and train.true is None:
        raise ConfigError(
            f"Method {config.method.name} needs true labels, but {config.data.name} has only observed ones",
            "method.name",
        )
    if config.loop.select_epoch_by is SelectBy.CLEAN_VAL and val.true is None:
        raise ConfigError(
            f"loop.select_epoch_by=clean-val needs true validation labels, but {config.data.name} has only observed "
            f"ones. Use {', '.join(LABEL_FREE)}",
            "loop.select_epoch_by",
        )
    if config.loop.recording_weight and train.recordings is None:
        raise missing_recordings(config.data.name)


def missing_recordings(name: str) -> ConfigError:
    """Return the error of a regulariser that a dataset has no recordings for."""
    return ConfigError(
        f"loop.recording_weight needs to know which images are parts of one recording, which {name} does not say. Set "
        "loop.recording_weight=0; in a table of your own data, the column recording says it",
        "loop.recording_weight",
    )
