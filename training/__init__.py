"""Methods of single-positive multi-label learning as a library, in plain PyTorch.

What is listed here is stable, everything else may change. Names are loaded when they are first used, so that importing
the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config.run import TrainConfig
    from training.data.batches import Batch
    from training.data.registry import load_split
    from training.data.split import SplitData
    from training.errors import ConfigError, DatasetError
    from training.inference.predictor import Predictor
    from training.loop.run import TrainingRun
    from training.losses import total_loss
    from training.methods.base import Method, StepOutput
    from training.methods.registry import make_method
    from training.metrics import compute_metrics
    from training.models.base import ModelOutput
    from training.preparation import make_model, prepare

__all__ = [
    "Batch",
    "ConfigError",
    "DatasetError",
    "Method",
    "ModelOutput",
    "Predictor",
    "SplitData",
    "StepOutput",
    "TrainConfig",
    "TrainingRun",
    "compute_metrics",
    "load_split",
    "make_method",
    "make_model",
    "prepare",
    "total_loss",
]

_PLACES = {
    "Batch": "training.data.batches",
    **dict.fromkeys(("ConfigError", "DatasetError"), "training.errors"),
    **dict.fromkeys(("Method", "StepOutput"), "training.methods.base"),
    "ModelOutput": "training.models.base",
    "Predictor": "training.inference.predictor",
    "SplitData": "training.data.split",
    "TrainConfig": "training.config.run",
    "TrainingRun": "training.loop.run",
    "compute_metrics": "training.metrics",
    "load_split": "training.data.registry",
    "make_method": "training.methods.registry",
    **dict.fromkeys(("make_model", "prepare"), "training.preparation"),
    "total_loss": "training.losses",
}

if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
