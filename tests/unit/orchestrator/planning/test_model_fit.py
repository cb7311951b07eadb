from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest

from orchestrator.planning.model_fit import check_model
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from search_spaces.ranges import Range
from search_spaces.schema import shipped_spaces
from training.errors import ConfigError

PLAN = make_plan(PlanRequest("voc", num_cpus=4, num_gpus=1))


def check(backbone: str, weights: str = "none", **changes: Any) -> None:
    base = {**PLAN.base, "model.backbone": backbone, "model.weights": weights}
    check_model(dataclasses.replace(PLAN, base=base, **changes))


def test_trunks_of_shipped_spaces_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.models.backbone", None)
    for space in shipped_spaces():
        check_model(make_plan(PlanRequest(space, num_cpus=4, num_gpus=1)))


def test_a_trunk_or_weights_that_do_not_exist_are_named_with_the_nearest_before_anything_starts() -> None:
    check("torchvision/resnet18", "IMAGENET1K_V1")
    check("timm/resnet18", "a1_in1k")
    check("timm/resnet18", "default")
    for backbone, weights, message in (
        ("timm/nonexistent", "none", r"timm has no model nonexistent \(model.backbone=timm/nonexistent\)"),
        ("timm/resnet_18", "none", "Did you mean timm/resnet18"),
        ("torchvision/resnet19", "IMAGENET1K_V1", "Did you mean torchvision/resnet1"),
        ("torchvision/vit_b_16", "none", "must be a CNN with a feature map"),
        ("torchvision/resnet18", "IMAGENET1K_V2", "must be one of IMAGENET1K_V1, DEFAULT, a file or none"),
        ("timm/resnet18", "IMAGENET1K_V1", "must be one of default, .*a1_in1k"),
    ):
        with pytest.raises(ConfigError, match=message):
            check(backbone, weights)


def test_a_trunk_whose_stem_cannot_be_frozen_is_refused_before_anything_starts() -> None:
    for backbone in ("torchvision/densenet121", "timm/mobilenetv3_small_050"):
        check(backbone)
        base = {**PLAN.base, "model.backbone": backbone, "model.frozen_stem": True}
        base["model.weights"] = "IMAGENET1K_V1" if backbone.startswith("torchvision/") else "default"
        with pytest.raises(
            ConfigError, match=f"needs a ResNet, .*model.backbone={backbone}. Set model.frozen_stem=false"
        ):
            check_model(dataclasses.replace(PLAN, base=base))
        base["model.backbone"] = f"{backbone.partition('/')[0]}/resnet18"
        check_model(dataclasses.replace(PLAN, base=base))


def test_searched_trunks_are_checked_too() -> None:
    choices = Range(type="categorical", choices=["torchvision/resnet50", "torchvision/resnet19"])
    with pytest.raises(ConfigError, match="torchvision has no model resnet19"):
        check("torchvision/resnet50", "IMAGENET1K_V1", ranges={"model.backbone": choices})
