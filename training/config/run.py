"""Define ``TrainConfig``, the one configuration object of a run: data + model + method + optim + loop.

It is frozen, and validated when built. A run is built from it, MLflow gets it as params (:meth:`TrainConfig.flatten`),
a checkpoint stores it, and promotion compares it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from training.config.methods import METHOD_CONFIGS, IgnoreConfig, MethodConfig
from training.config.spelling import nearest_key, suggest
from training.config.strict import PathName, StrictModel, explain, shown
from training.errors import ConfigError
from training.selection import SelectBy

Scalar = str | int | float | bool | None
Positives = Literal["drawn", "given"]
Negatives = Literal["none", "given", "range", "checklist"]


_DRAW_SEED = 1200


class DataConfig(StrictModel):
    """Which images, which split and which single positives.

    Attributes:
        name: Dataset name; ``digits`` is built in, the others are read from a prepared store.
        scene_seed: Seed of the digit scenes, and of the trunk pretrained for them.
        split_seed: Seed of the train / validation split of the official training images (1200 in the literature).
        draw_seed: Seed of the draw of one observed positive per image (1200 in the literature).
        num_train, num_val, num_test: Scenes per split (digits only).
        image_size: Side of the square input in px.
        strong_view_strength: Strength of the strong view of digits; 1 is full strength, 0.5 gave better results.
        store: URI or folder of the prepared store; every dataset but digits needs one.
        num_workers: Processes per rank that read a store and make views; with 0, the run's own process does both.
            Digits need none.
        augment_order: Whether RandAugment runs after the resize (``resized``) or, as released, before it on the
            original image (``original``), which needs a store that keeps the originals. Digits support only
            ``resized``.
        normalisation: How pixels in [0, 1] are normalised: ``dataset`` subtracts a mean colour and divides by a
            deviation (their own for digits, ImageNet's for photos, as in their trunks' training); ``none`` leaves them,
            as released for PLC + LAC, and makes the pixels that IGNORE masks black instead of the mean colour.
        horizontal_flip: Whether views of a store's images are mirrored at random, as in the literature; false for
            spectrograms, whose time would run backwards, and for text. Digits are never mirrored.
        positives: Where the observed positives come from: ``drawn`` from the true labels, or ``given`` by the dataset.
            None is ``given`` where the dataset gives them and ``drawn`` elsewhere. Given ones have no draw, so
            ``draw_seed`` must then stay as it is.
        negatives: Which labels of training images are known to be negative: ``none``, or those that the dataset gives
            (``given``). L48 gives them in two ways, by the ``range`` of a species and by the ``checklist`` of the
            recording's place; ``given`` is both. What they cost is in :mod:`training.methods.known_negatives`.
    """

    name: PathName = "digits"
    scene_seed: int = Field(0, ge=0)
    split_seed: int = Field(1200, ge=0)
    draw_seed: int = Field(_DRAW_SEED, ge=0)
    num_train: int | None = Field(None, ge=10)
    num_val: int | None = Field(None, ge=10)
    num_test: int | None = Field(None, ge=10)
    image_size: int = Field(448, ge=8)
    strong_view_strength: float = Field(0.5, ge=0, le=2)
    store: str | None = None
    num_workers: int = Field(2, ge=0, le=128)
    augment_order: Literal["resized", "original"] = "resized"
    normalisation: Literal["dataset", "none"] = "dataset"
    horizontal_flip: bool = True
    positives: Positives | None = None
    negatives: Negatives = "none"

    @field_validator("positives")
    @classmethod
    def _check_draw(cls, positives: Positives | None, info: ValidationInfo) -> Positives | None:
        if positives == "given" and info.data.get("draw_seed", _DRAW_SEED) != _DRAW_SEED:
            raise ValueError(
                f"drawn with data.draw_seed={info.data['draw_seed']}, because given positives have no draw"
            )
        return positives


PLACE_KEYS = frozenset({"data.store", "data.num_workers"})
"""Settings that no result depends on: where the data is, and how many processes read it.

A run may be resumed with other values, and two configurations that differ only here are the same.
"""


ADDED_SETTINGS: dict[str, Scalar] = {
    "model.frozen_stem": False,
    "model.latent_dim": 0,
    "optim.head_first_epochs": 0,
    "data.horizontal_flip": True,
    "data.positives": None,
    "data.negatives": "none",
    "loop.recording_weight": 0.0,
    "loop.recording_decay": 0.999,
}
"""Settings that came after the first results -> the value that those had.

Whatever identifies a result leaves them out at that value, so that earlier results are still recognised.
"""


class ModelConfig(StrictModel):
    """The network.

    Attributes:
        name: ``resnet_cam`` (trunk + 1x1 convolution + global average pooling, supplement A.2) or ``query2label``
            (A.1).
        backbone: ``digits/resnet12``, ``torchvision/<name>``, ``timm/<name>`` or ``clip/<name>``.
        weights: Initial weights of the trunk: ``pretext`` (digits), the name of torchvision's or timm's weights
            (``IMAGENET1K_V1``) or CLIP's (``openai``), the path of a safetensors or ``.pth`` file, or ``none``.
        frozen_bn: Whether to keep BatchNorm at its pretrained statistics and affine parameters.
        frozen_stem: Whether to keep the trunk's stem and first stage at their initial weights, BatchNorms included, as
            the releases of Query2Label and PLC + LAC do (ResNets only).
        cam_boost: Factor on the positive values of the CAM before they are averaged to logits (BoostLU's alpha,
            published: 5), in training and evaluation; ``resnet_cam`` only. 1 turns it off.
        hidden_dim: Width d of Query2Label's transformer; the map of a trunk of another width is projected. This setting
            and those below concern Query2Label only; their defaults are those of its paper and of IGNORE's released
            code.
        feedforward_dim: Inner width of the feed-forward layers.
        num_heads: Attention heads; their number must divide d.
        num_encoder_layers, num_decoder_layers: Depth of encoder and decoder.
        decoder_self_attention: Whether the classes attend to each other from the second layer on; the release leaves
            this out.
        dropout: Dropout in train mode: of attention weights (and so of the CAM), of the outputs of attention and
            feed-forward layers, and inside the latter.
        latent_dim: Size of a latent vector per class, drawn from a normal distribution that the class's embedding
            gives, from which Query2Label then reads the logits (MIME; released: 256). 0 reads them from the embedding.
    """

    name: Literal["resnet_cam", "query2label"] = "resnet_cam"
    backbone: str = Field("torchvision/resnet50", pattern=r"^(digits|torchvision|timm|clip)/.+$")
    weights: str = "IMAGENET1K_V1"
    frozen_bn: bool = False
    frozen_stem: bool = False
    cam_boost: float = Field(1.0, ge=1, le=100)
    # A multiple of 4, because positions use half of it for rows and half for columns, each in pairs of sine and cosine.
    hidden_dim: int = Field(2048, ge=4, multiple_of=4)
    feedforward_dim: int = Field(8192, ge=1)
    num_heads: int = Field(4, ge=1)
    num_encoder_layers: int = Field(1, ge=0)
    num_decoder_layers: int = Field(2, ge=1)
    decoder_self_attention: bool = False
    dropout: float = Field(0.1, ge=0, lt=1)
    latent_dim: int = Field(0, ge=0, le=65536)

    @field_validator("num_heads")
    @classmethod
    def _check_heads(cls, num_heads: int, info: ValidationInfo) -> int:
        # info.data lacks hidden_dim if it failed its own check; its own error is then the one to report.
        if (hidden_dim := info.data.get("hidden_dim")) and hidden_dim % num_heads:
            raise ValueError(f"a divisor of model.hidden_dim={hidden_dim}")
        return num_heads

    @field_validator("latent_dim")
    @classmethod
    def _check_latent(cls, latent_dim: int, info: ValidationInfo) -> int:
        if latent_dim and info.data.get("name") != "query2label":
            raise ValueError("0 unless model.name=query2label, which has an embedding for each class")
        return latent_dim

    @field_validator("cam_boost")
    @classmethod
    def _check_boost(cls, cam_boost: float, info: ValidationInfo) -> float:
        if cam_boost != 1 and info.data.get("name") != "resnet_cam":
            raise ValueError("1 unless model.name=resnet_cam, whose logits are the mean of a CAM")
        return cam_boost


class OptimConfig(StrictModel):
    """Optimiser and schedule.

    Attributes:
        batch_size: The global batch, over all ranks.
        head_lr_multiplier: Factor on ``lr`` for the classification head. Release (ResNet): 10.
        schedule: ``constant`` or ``one_cycle`` (cosine, stepped per batch, over the full ``loop.epochs`` even if a
            scheduler ends the run earlier).
        warm_frac: Share of the one-cycle schedule in which the rate rises.
        cycle_epochs: Length of one cycle; None is ``loop.epochs``. The end of the run cuts a longer one (ASL: 80 epochs
            cut at 40); after a shorter one the next begins (PLC + LAC: one of 40 epochs per stage).
        drop_last: Whether to leave out an epoch's last batch if it is smaller than the others (PLC + LAC).
        head_first_epochs: Epochs at the start in which the trunk is left as it was pretrained, its BatchNorms in eval
            mode, and only what follows it is trained: ``linear_init`` of Cole et al. The trunk still passes its
            gradient, which is thrown away, so these epochs cost as much as the others.
        average_decay: EMA factor of a second set of weights, BatchNorm's statistics included, that follows the trained
            ones step by step from their initial values, without bias correction; 0.9997 for ASL and PLC + LAC. Both
            sets are evaluated after every epoch, and the better one by ``loop.select_epoch_by`` counts for that epoch
            (with ``last`` always the averaged one). None keeps no second set.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-5, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0, le=1)
    batch_size: int = Field(16, ge=1)
    head_lr_multiplier: float = Field(1.0, gt=0, le=1000)
    schedule: Literal["constant", "one_cycle"] = "constant"
    warm_frac: float = Field(0.2, gt=0, lt=1)
    cycle_epochs: int | None = Field(None, ge=1)
    drop_last: bool = False
    head_first_epochs: int = Field(0, ge=0)
    average_decay: float | None = Field(None, ge=0, lt=1)

    @field_validator("cycle_epochs")
    @classmethod
    def _check_cycle(cls, cycle_epochs: int | None, info: ValidationInfo) -> int | None:
        if cycle_epochs is not None and info.data.get("schedule") != "one_cycle":
            raise ValueError("null unless optim.schedule=one_cycle")
        return cycle_epochs


class LoopConfig(StrictModel):
    """Length, seed and bookkeeping of the training loop.

    Attributes:
        epochs: Full length; it sets the learning-rate schedule even if a scheduler ends the run earlier.
        seed: Training seed: head initialisation, order of the images, views.
        recipe: Name of the recipe that every result carries: ``published`` (as the method's authors train it),
            ``common`` (one set-up for all methods), ``digits`` (that of the digit scenes) or ``custom`` (any other,
            such as a published one with changes).
        select_epoch_by: What chooses the epoch whose weights count.
        patience_epochs: Number of consecutive epochs that may pass without a gain in the metric of
            ``select_epoch_by``; one more ends the run. 0 ends it at the first (EM and EM + APL); 8 for PLC + LAC. With
            averaged weights, a gain of the trained ones alone counts too, and the run continues while the averaged ones
            are at their best. None never ends it.
        max_drop_percent: The run ends when that metric falls this many percentage points below its best so far: 3 for
            large loss, 2 for GR loss. None never ends it.
        recording_weight: Weight of the regulariser that keeps the clips of a recording consistent (L48's asset
            regulariser, alpha), for data that say which images are parts of one recording. 0 turns it off.
        recording_decay: EMA factor of a recording's mean probabilities (L48: 0.999).
        num_threads: torch's CPU threads in a worker; bit-identical results need the same number.
        precision: Arithmetic of convolutions and matrix products: ``fp32``; ``tf32`` (a GPU rounds their factors to 10
            bits; a CPU does not); ``bf16`` (autocast in training, evaluation in TF32). Thresholds, CAM normalisation
            and losses are always float32.
        compile: Whether to compile the network of the training steps (``torch.compile``), which takes about a minute at
            the start of every run.
    """

    epochs: int = Field(25, ge=1)
    seed: int = Field(0, ge=0)
    recipe: Literal["digits", "published", "common", "custom"] = "custom"
    select_epoch_by: SelectBy = Field(SelectBy.CLEAN_VAL, strict=False)  # files and flags give its value as text
    patience_epochs: int | None = Field(None, ge=0)
    max_drop_percent: float | None = Field(None, ge=0, le=100)
    recording_weight: float = Field(0.0, ge=0, le=100)
    recording_decay: float = Field(0.999, ge=0, lt=1)
    num_threads: int = Field(1, ge=1)
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False

    @field_validator("patience_epochs", "max_drop_percent")
    @classmethod
    def _check_stop(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("select_epoch_by") is SelectBy.LAST:
            raise ValueError("null with loop.select_epoch_by=last, which watches no metric")
        return value


class TrainConfig(StrictModel):
    """All settings of one run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = IgnoreConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> TrainConfig:
        """Build a configuration from dotted keys (``{"optim.lr": 1e-3}``); all other settings keep their defaults.

        Raises:
            ConfigError: A key is unknown (the message names the nearest valid one), or a value has the wrong type or is
                out of range.
        """
        # As text, so that for any wrong name, even a number, the error lists the valid names.
        method = str(flat.get("method.name", "ignore"))
        check_keys(flat, method)
        # The name is always given, because it decides which class validates the section.
        nested: dict[str, dict[str, Any]] = {"method": {"name": method}}
        for key, value in flat.items():
            section, _, leaf = key.partition(".")
            nested.setdefault(section, {})[leaf] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise _config_error(error) from None

    def with_params(self, params: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with some dotted keys changed; a new ``method.name`` drops the old method's settings.

        Raises:
            ConfigError: As :meth:`from_flat`.
        """
        flat: dict[str, Any] = self.flatten()
        if params.get("method.name", self.method.name) != self.method.name:
            flat = {key: value for key, value in flat.items() if not key.startswith("method.")}
        return TrainConfig.from_flat(flat | dict(params))

    def flatten(self) -> dict[str, Scalar]:
        """Return every setting under its dotted key, in a fixed order."""
        dumped = self.model_dump(mode="json")
        return {f"{section}.{leaf}": value for section, fields in dumped.items() for leaf, value in fields.items()}


def valid_keys(method: str) -> list[str]:
    """List the dotted keys of a TrainConfig with this method.

    Raises:
        ConfigError: The method is unknown.
    """
    if method not in METHOD_CONFIGS:
        raise ConfigError(
            f"method.name must be a method, but got {shown(method)}. {suggest(method, METHOD_CONFIGS)}", "method.name"
        )
    return [f"{section}.{leaf}" for section, model in _sections(method).items() for leaf in model.model_fields]


def _sections(method: str) -> dict[str, type[BaseModel]]:
    return {
        "data": DataConfig,
        "model": ModelConfig,
        "method": METHOD_CONFIGS[method],
        "optim": OptimConfig,
        "loop": LoopConfig,
    }


def check_keys(flat: Mapping[str, Any], method: str) -> None:
    """Raise ConfigError, with the nearest valid key, for the first key that a run with this method does not have."""
    known = valid_keys(method)
    for key in flat:
        if key not in known:
            nearest = nearest_key(key, known)
            # All keys would fill the screen. `plan` shows each with its value.
            hint = f"Did you mean {nearest}?" if nearest else "To see all settings: orchestrator plan SPACE"
            raise ConfigError(f"{key} is not a setting of a run with method {method}. {hint}", key)


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    # A discriminated union puts the member's name between section and leaf.
    location = [str(part) for part in first["loc"]]
    key = f"{location[0]}.{location[-1]}" if len(location) > 1 else location[0]
    return ConfigError(f"{key} {explain(first, key)}", key)
