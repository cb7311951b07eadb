"""Find out what the results of a sweep depend on: its data and initial weights, code, libraries and seeds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.provenance import UNKNOWN, library_versions, read_build
from training.cache import cache_dir
from training.config.run import TrainConfig


def prepare_inputs(config: TrainConfig, say: Callable[[str], None] = lambda text: None) -> dict[str, str]:
    """Make, once, the data and initial weights that can be generated (digit scenes and their trunk); return the hashes.

    Args:
        config: The settings of any run of the sweep.
        say: Called with what is about to be made.

    Returns:
        ``data_hash``, ``weights_hash``, ``true_labels`` (``available`` or ``not available``) and, of a method that
        reads CLIP's scores, ``scores_hash``, as in ``TrainingRun.identity``; the size of the dataset: ``num_classes``,
        ``num_train``, ``num_test`` and so on; and what a run knows of the labels of its train split:
        ``num_observed_positives``, ``num_known_negatives`` and ``num_unknown_labels``.

    Raises:
        ConfigError, DatasetError, WeightsError: The dataset, the model or the weights cannot be loaded.
    """
    # These import torch, which takes seconds; the driver calls this while Ray starts.
    import torch

    from orchestrator.datasets.known_counts import count_known
    from training.data.registry import dataset_info, load_clip_scores, load_split
    from training.models.registry import build_model
    from training.preparation import is_prepared, prepare

    if not is_prepared(config.data):
        say(f"Making the {config.data.name} scenes and their trunk, once; they are cached in {cache_dir()}")
    # Done here and not in the trials, because two trials would make the same data at the same time.
    prepare(config.data)
    info = dataset_info(config.data)
    # On the CPU: hashing needs no GPU, and the driver may run on a machine without one.
    _, weights_hash = build_model(config.model, len(info.classes), torch.device("cpu"), pretext_file=info.pretext_file)
    train = load_split(config.data, "train")
    known = count_known(train.observed.numpy(), None if train.negative is None else train.negative.numpy())
    has_true_labels = load_split(config.data, "val").true is not None
    clip_model = getattr(config.method, "clip_model", None)
    scores = {} if clip_model is None else {"scores_hash": load_clip_scores(config.data, clip_model)[1]}
    return {
        "data_hash": info.data_hash,
        "weights_hash": weights_hash,
        **scores,
        "true_labels": "available" if has_true_labels else "not available",
        "num_classes": str(len(info.classes)),
        **{f"num_{phase}": str(count) for phase, count in info.counts.items()},
        "num_observed_positives": str(known.positives),
        "num_known_negatives": str(known.negatives),
        "num_unknown_labels": str(known.unknown),
    }


def collect_provenance(plan: SweepPlan, inputs: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what every run of a plan records about where its result comes from, as text.

    Args:
        plan: The sweep, training or promotion.
        inputs: What :func:`prepare_inputs` returned; None if the data is not prepared, which leaves the hashes unknown.
    """
    return {
        **read_build(),
        # Present even if unknown, so that a later driver that knows them can be compared.
        "data_hash": UNKNOWN,
        "weights_hash": UNKNOWN,
        **(inputs or {}),
        **_seeds(plan),
        "recipe": str(plan.base["loop.recipe"]),
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "world_size": str(plan.resources.workers),
        **library_versions(),
        "host": platform.node(),
    }


def _seeds(plan: SweepPlan) -> dict[str, str]:
    # Digit scenes are drawn from a seed; every other dataset is split by one.
    seed = "scene_seed" if plan.dataset == "digits" else "split_seed"
    keys = {seed: f"data.{seed}", "draw_seed": "data.draw_seed", "training_seed": "loop.seed"}
    return {name: str(plan.base[key]) for name, key in keys.items()}
