"""Test that the marks of tables name exactly the methods that are told something."""

from __future__ import annotations

from training.config.marks import EXTERNAL, STATISTIC, TRUE_LABELS, find_marks
from training.config.methods import METHOD_CONFIGS
from training.config.run import TrainConfig
from training.methods.base import Sizes
from training.methods.registry import build_method


def test_marks_are_those_of_the_methods() -> None:
    for name, settings in METHOD_CONFIGS.items():
        config = TrainConfig.from_flat({"method.name": name})
        marks = find_marks(config.flatten())
        assert (TRUE_LABELS in marks) == build_method(config.method, Sizes(3, 4, 2)).needs_true_labels, name
        assert (EXTERNAL in marks) == (build_method(config.method, Sizes(3, 4, 2)).clip_model is not None), name
        assert (STATISTIC in marks) == ("expected_positives" in settings.model_fields), name
    oracle = TrainConfig.from_flat({"method.name": "ignore", "method.rejection": "oracle"})
    assert find_marks(oracle.flatten()) == (TRUE_LABELS,)
    assert find_marks(TrainConfig().flatten()) == ()
    trunk = TrainConfig.from_flat({"method.name": "em", "model.backbone": "timm/resnet50_clip.openai"})
    assert find_marks(trunk.flatten()) == (EXTERNAL,)
