"""What a run's results are of: data and initial weights, by their hashes."""

from __future__ import annotations

from collections.abc import Callable

from training.cache import cache_dir
from training.config.run import TrainConfig


def prepare_and_identify(config: TrainConfig, say: Callable[[str], None] = lambda text: None) -> dict[str, str]:
    """Make what can be made of a configuration's data (digit scenes and their trunk), once, and return what it is.

    Args:
        config: Of any run of the sweep.
        say: Told what is being made, before it is.

    Returns:
        ``data_hash``, ``weights_hash`` and ``true_labels`` (``available`` or ``not available``), as
        ``TrainingRun.identity`` has them.

    Raises:
        ConfigError, DatasetError, WeightsError: Dataset, model or weights cannot be had.
    """
    # torch comes with these: seconds, which the driver spends beside the start of Ray.
    import torch

    from training.data.registry import dataset_info, load_split
    from training.models.registry import build_model
    from training.preparation import is_prepared, prepare

    if not is_prepared(config.data):
        say(f"Making the {config.data.name} scenes and their trunk, once; they are cached in {cache_dir()}")
    prepare(config.data)
    info = dataset_info(config.data)
    _, weights_hash = build_model(config.model, len(info.classes), torch.device("cpu"), pretext_file=info.pretext_file)
    has_true_labels = load_split(config.data, "val").true is not None
    return {
        "data_hash": info.data_hash,
        "weights_hash": weights_hash,
        "true_labels": "available" if has_true_labels else "not available",
    }
