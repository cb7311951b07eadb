"""Checks that the model of a plan exists, before anything starts."""

from __future__ import annotations

from itertools import product

from orchestrator.planning.sweep_plan import SweepPlan
from training.config.run import TrainConfig

# The trunks of the shipped spaces: known to exist without importing torchvision.
_KNOWN = {(f"torchvision/{name}", "IMAGENET1K_V1") for name in ("resnet50", "resnet101", "mobilenet_v2")}


def check_model(plan: SweepPlan) -> None:
    """Check that every trunk that a plan trains exists and has initial weights of the name that it gives.

    Raises:
        ConfigError: One does not exist, or is not a CNN.
    """
    # The digits trunk is checked without torch, with the other settings.
    unknown = [pair for pair in _list_trunks(plan) if pair not in _KNOWN and not pair[0].startswith("digits/")]
    if not unknown:
        return
    # Only the libraries know their models, and importing them takes seconds.
    from training.models.backbone import check_trunk

    config = TrainConfig.from_flat(plan.base).model
    for backbone, weights in unknown:
        check_trunk(config.model_copy(update={"backbone": backbone, "weights": weights}))


def _list_trunks(plan: SweepPlan) -> list[tuple[str, str]]:
    values = []
    for key in ("model.backbone", "model.weights"):
        searched = plan.ranges.get(key)
        values.append([str(value) for value in searched.bounds()] if searched else [str(plan.base[key])])
    return [(backbone, weights) for backbone, weights in product(*values)]
