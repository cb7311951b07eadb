"""Build methods by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from training.config.methods import METHOD_CONFIGS
from training.config.run import DataConfig, Scalar, TrainConfig
from training.data.registry import load_clip_scores
from training.methods.base import Method, Sizes
from training.methods.crisp import Crisp
from training.methods.em_apl import EmApl
from training.methods.epr import Epr
from training.methods.focal import Asl, Focal, Hill, Splc
from training.methods.gr_loss import Aevlp, Gpr, GrLoss
from training.methods.ignore import Ignore
from training.methods.large_loss import LargeLoss
from training.methods.mime import Mime
from training.methods.plc import Plc, PlcLac
from training.methods.role import Role
from training.methods.supervised import (
    AnLs,
    AssumedNegative,
    BceLs,
    EntropyMaximisation,
    FullLabels,
    Iu,
    Iun,
    Wan,
)
from training.methods.vlpl import Vlpl

METHODS: dict[str, type[Method]] = {
    "full_labels": FullLabels,
    "assumed_negative": AssumedNegative,
    "wan": Wan,
    "em": EntropyMaximisation,
    "ignore": Ignore,
    "bce_ls": BceLs,
    "iu": Iu,
    "iun": Iun,
    "an_ls": AnLs,
    "epr": Epr,
    "focal": Focal,
    "asl": Asl,
    "hill": Hill,
    "splc": Splc,
    "gr_loss": GrLoss,
    "gpr": Gpr,
    "aevlp": Aevlp,
    "vlpl": Vlpl,
    "large_loss": LargeLoss,
    "em_apl": EmApl,
    "role": Role,
    "crisp": Crisp,
    "mime": Mime,
    "plc": Plc,
    "plc_lac": PlcLac,
}
# Settings are defined separately from methods, so that they can be read without torch; the two lists must agree.
assert METHODS.keys() == METHOD_CONFIGS.keys()


def build_method(config: Any, sizes: Sizes) -> Method:
    """Build the method that the ``method`` section of a run configures.

    Args:
        config: One of :data:`training.config.methods.METHOD_CONFIGS`' classes.
        sizes: The run's sizes.
    """
    factory: Any = METHODS[config.name]
    method: Method = factory(config, sizes)
    return method


def start_method(method: Method, data: DataConfig, observed: Tensor, *negative: Tensor) -> dict[str, str]:
    """Give a method what it needs to know of the train split.

    Args:
        method: On its device.
        data: The run's dataset.
        observed, negative: bool (N, C), on the same device; the latter only if some labels are known to be negative.

    Returns:
        ``scores_hash`` of CLIP's scores, if the method reads them.

    Raises:
        ConfigError, DatasetError: There are no scores; the message has the command that makes them.
    """
    method.start(observed, *negative)
    if method.clip_model is None:
        return {}
    scores, digest = load_clip_scores(data, method.clip_model)
    method.take_scores(scores, observed)
    return {"scores_hash": digest}


def make_method(
    name: str,
    *,
    num_classes: int,
    num_examples: int,
    num_epochs: int,
    embedding_dim: int | None = None,
    **settings: Scalar,
) -> Method:
    """Build a method for a training loop of one's own; what it needs beyond that, its attributes say.

    Args:
        name: Such as ``ignore``; every ``method.name`` of a search space.
        num_classes: C.
        num_examples: N of the train split.
        num_epochs: Full length of the training.
        embedding_dim: d of ``ModelOutput.embeddings``; None if the model returns none.
        settings: Its settings without the ``method.`` in front, such as ``cam_threshold=0.3``; the others keep their
            defaults.

    Raises:
        ConfigError: The method or a setting is unknown (the message names the nearest valid one), or a value is out of
            range.
    """
    config = TrainConfig.from_flat({"method.name": name} | {f"method.{key}": value for key, value in settings.items()})
    return build_method(config.method, Sizes(num_classes, num_examples, num_epochs, embedding_dim))
