"""Check that settings fit each other without importing torch, as torch's side would."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kit.scenes import tiny_config
from training.config.fit import DIGITS_IMAGE_SIZE, check_fit
from training.data.digits import IMAGE_SIZE
from training.errors import ConfigError


def test_digits_have_the_size_that_they_are_drawn_in() -> None:
    assert DIGITS_IMAGE_SIZE == IMAGE_SIZE


@pytest.mark.parametrize("weights", ["pretext", "none", "trunk.safetensors"])
def test_weights_that_the_digits_backbone_may_have(weights: str) -> None:
    check_fit(tiny_config({"model.weights": weights}))


def test_pretext_weights_belong_to_digits() -> None:
    with pytest.raises(
        ConfigError, match="exists only for digits/resnet12 on digits, but got model.backbone=digits/resnet12 on voc"
    ):
        check_fit(tiny_config({"data.name": "voc"}))


def test_random_weights_are_not_frozen() -> None:
    with pytest.raises(ConfigError, match="frozen_stem=true would keep random weights with model.weights=none"):
        check_fit(tiny_config({"model.weights": "none", "model.frozen_stem": True}))


def test_looking_imports_nothing_heavy() -> None:
    code = "import sys, training.config.fit; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
        ).stdout.strip()
        == "[]"
    )
