"""Build methods by name."""

from __future__ import annotations

from typing import Any

from training.config.methods import METHOD_CONFIGS
from training.methods.base import Method, Sizes
from training.methods.crisp import Crisp
from training.methods.em_apl import EmApl
from training.methods.epr import Epr
from training.methods.focal import Asl, Focal, Hill, Splc
from training.methods.gr_loss import GrLoss
from training.methods.ignore import Ignore
from training.methods.large_loss import LargeLoss
from training.methods.plc import Plc, PlcLac
from training.methods.role import Role
from training.methods.supervised import AnLs, AssumedNegative, EntropyMaximisation, FullLabels, Wan

METHODS: dict[str, type[Method]] = {
    "full_labels": FullLabels,
    "assumed_negative": AssumedNegative,
    "wan": Wan,
    "em": EntropyMaximisation,
    "ignore": Ignore,
    "an_ls": AnLs,
    "epr": Epr,
    "focal": Focal,
    "asl": Asl,
    "hill": Hill,
    "splc": Splc,
    "gr_loss": GrLoss,
    "large_loss": LargeLoss,
    "em_apl": EmApl,
    "role": Role,
    "crisp": Crisp,
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
