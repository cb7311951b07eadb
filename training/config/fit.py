"""Check that settings of data and model fit together, as far as possible without torch.

This runs before anything is started.
"""

from __future__ import annotations

from pathlib import Path

from training.config.run import TrainConfig
from training.errors import ConfigError

DIGITS = "digits"
DIGITS_IMAGE_SIZE = 40
DIGITS_BACKBONE = "digits/resnet12"
PRETEXT = "pretext"


def check_fit(config: TrainConfig) -> None:
    """Check that the settings of a run fit together.

    Raises:
        ConfigError: Image size or labels do not fit digits, the digits family has no such backbone, the backbone has no
            such weights, or random ones would be frozen for a while or for good.
    """
    data, model = config.data, config.model
    if data.name == DIGITS and data.image_size != DIGITS_IMAGE_SIZE:
        raise ConfigError(
            f"data.image_size must be {DIGITS_IMAGE_SIZE} for digits, but got data.image_size={data.image_size}",
            "data.image_size",
        )
    if data.name == DIGITS and (data.positives == "given" or data.negatives != "none"):
        key, value = ("positives", "drawn") if data.positives == "given" else ("negatives", "none")
        raise ConfigError(
            f"data.{key} must be {value} for digits, whose labels are all true, but got "
            f"data.{key}={getattr(data, key)}",
            f"data.{key}",
        )
    of_digits = model.backbone.startswith("digits/")
    if of_digits and model.backbone != DIGITS_BACKBONE:
        raise ConfigError(
            f"There is no backbone {model.backbone}. The digits family has only {DIGITS_BACKBONE}", "model.backbone"
        )
    if model.frozen_stem and model.weights == "none":
        raise ConfigError(
            "model.frozen_stem=true would keep random weights with model.weights=none. Set model.frozen_stem=false",
            "model.frozen_stem",
        )
    if config.optim.head_first_epochs and model.weights == "none":
        raise ConfigError(
            "optim.head_first_epochs would train a head on random features with model.weights=none. Set "
            "optim.head_first_epochs=0",
            "optim.head_first_epochs",
        )
    if model.weights == PRETEXT and not (of_digits and data.name == DIGITS):
        raise ConfigError(
            f"model.weights=pretext exists only for {DIGITS_BACKBONE} on digits, but got "
            f"model.backbone={model.backbone} on {data.name}. Set model.weights too: to weights of that backbone, "
            "or to none",
            "model.weights",
        )
    if of_digits and model.weights not in (PRETEXT, "none") and not Path(model.weights).suffix:
        raise ConfigError(
            f"model.weights must be pretext, a file or none for {DIGITS_BACKBONE}, but got "
            f"model.weights={model.weights}",
            "model.weights",
        )
