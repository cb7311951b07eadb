"""Test TrainConfig: keys, synonyms, ranges, and flat keys in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.kit.scenes import TINY, tiny_config
from training.config.methods import METHOD_CONFIGS, IgnoreConfig, WanConfig
from training.config.run import TrainConfig, valid_keys
from training.config.spelling import SYNONYMS, nearest_key, nearest_word
from training.errors import ConfigError


@pytest.mark.parametrize("method", METHOD_CONFIGS)
def test_flat_keys_and_back_is_the_same_configuration(method: str) -> None:
    config = tiny_config({"method.name": method, "optim.lr": 2.5e-3, "data.num_val": None})
    assert TrainConfig.from_flat(config.flatten()) == config
    assert list(config.flatten()) == valid_keys(method)


def test_flat_values_are_plain_scalars() -> None:
    assert {type(value) for value in tiny_config().flatten().values()} <= {str, int, float, bool, type(None)}


def test_what_is_not_named_keeps_its_default() -> None:
    config = TrainConfig.from_flat({"optim.lr": 1e-3})
    assert config.optim.lr == 1e-3
    assert config.model_copy(update={"optim": TrainConfig().optim}) == TrainConfig()


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_config().optim.lr = 1.0  # type: ignore[misc]


def test_another_method_drops_the_settings_of_the_old_one() -> None:
    config = tiny_config({"method.name": "wan", "method.negative_weight": 0.2})
    assert config.method == WanConfig(negative_weight=0.2)
    assert config.optim == tiny_config().optim
    back = config.with_params({"method.name": "ignore"})
    assert back.method == IgnoreConfig(), "and they do not come back"


def test_the_same_method_keeps_its_settings() -> None:
    config = tiny_config({"method.name": "ignore", "method.reg_weight": 0.25}).method
    assert isinstance(config, IgnoreConfig)
    assert (config.reg_weight, config.cam_threshold) == (0.25, TINY["method.cam_threshold"])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("method.tau", "method.cam_threshold"),
        ("tau", "method.cam_threshold"),
        ("method.spbc", "method.spbc_weight"),
        ("reg", "method.reg_weight"),
        ("lr", "optim.lr"),
        ("optim.learning_rat", None),
        ("optim.batchsize", "optim.batch_size"),
        ("data.draw_sed", "data.draw_seed"),
        ("cam_threshold", "method.cam_threshold"),
        ("model.epochs", "loop.epochs"),
        ("modl.name", "model.name"),
        ("optim.learning_rate", "optim.lr"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str | None) -> None:
    assert nearest_key(key, valid_keys("ignore")) == nearest
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_flat({key: 1})
    assert error.value.key == key
    assert (f"Did you mean {nearest}?" if nearest else "To see all settings: orchestrator plan SPACE") in str(
        error.value
    )


def test_every_synonym_means_a_setting_that_exists() -> None:
    assert set(SYNONYMS.values()) <= set(valid_keys("ignore"))


def test_key_of_another_method_is_unknown() -> None:
    with pytest.raises(ConfigError, match="cam_threshold is not a setting of a run with method em"):
        TrainConfig.from_flat({"method.name": "em", "method.cam_threshold": 0.5})


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("method.cam_threshold", 2),
    ("method.cam_threshold", 1.0),
    ("method.cam_threshold", -0.1),
    ("method.gap_decay", 1.0),
    ("method.average_decay", 1.5),
    ("method.warmup_epochs", -1),
    ("method.gap_threshold_scale", 0),
    ("method.rejection", "random"),
    ("method.masked_pass_bn", "eval"),
    ("method.cam_normalisation", "image"),
    ("optim.lr", 0),
    ("optim.lr", float("nan")),
    ("optim.lr", float("inf")),
    ("optim.lr", "fast"),
    ("optim.lr", True),
    ("loop.epochs", True),
    ("data.name", False),
    ("method.correct_gap_bias", 0.5),
    ("optim.batch_size", 0),
    ("optim.batch_size", 2.5),
    ("optim.name", "lion"),
    ("optim.cycle_epochs", 10),  # the schedule is constant, so there is no cycle
    ("optim.average_decay", 1.0),
    ("loop.patience_epochs", -1),
    ("loop.max_drop_percent", -1),
    ("data.normalisation", "imagenet"),
    ("loop.epochs", 0),
    ("loop.epochs", None),
    ("loop.seed", -1),
    ("loop.select_epoch_by", "best"),
    ("data.num_train", 3),
    ("model.backbone", "resnet50"),
]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_value_out_of_range_or_of_the_wrong_type_names_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} must be .*but got {key}=") as error:
        TrainConfig.from_flat({key: value})
    assert error.value.key == key
    assert json.dumps(value) in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("loop.patience_epochs", 0), ("loop.max_drop_percent", 2.0)])
def test_a_stopping_rule_must_have_something_to_watch(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be null with loop.select_epoch_by=last") as error:
        TrainConfig.from_flat({key: value, "loop.select_epoch_by": "last"})
    assert error.value.key == key


@pytest.mark.parametrize("name", ["ignor", "", None, 5, ["em"]])
def test_unknown_method_lists_the_known_ones(name: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=r"method.name must be a method, but got .* Valid: full_labels, assumed_negative, .*, and \d+ more",
    ):
        TrainConfig.from_flat({"method.name": name})
    with pytest.raises(ConfigError, match="method.name"):
        TrainConfig().with_params({"method.name": name})


def test_capitals_do_not_hide_the_nearest_word() -> None:
    assert nearest_word("DIGITS", ["voc", "digits"]) == "digits"
    assert nearest_word("img7.jpg", ["IMG7.JPG", "x.png"]) == "IMG7.JPG"


def test_misspelt_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean ignore"):
        TrainConfig.from_flat({"method.name": "ignor"})


def test_published_settings_are_the_defaults() -> None:
    config = TrainConfig()
    assert config.method == IgnoreConfig(
        cam_threshold=0.8, warmup_epochs=3, gap_decay=0.999, masked_pass_bn="train", cam_normalisation="per_image"
    )
    assert (config.data.split_seed, config.data.draw_seed, config.loop.epochs, config.optim.batch_size) == (
        1200,
        1200,
        25,
        16,
    )
