"""The shipped spaces and their methods, as the contract tests name them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from tests.kit.shipped_plans import plan_sweep

SPACES = [
    "coco",
    "coco_q2l",
    "cub",
    "cub_q2l",
    "digits",
    "digits_q2l",
    "folder",
    "l48",
    "nuswide",
    "nuswide_q2l",
    "photos",
    "voc",
    "voc_q2l",
]
FIGURES = ["coco_fig2", "digits_fig2", "voc_fig2"]
"""Spaces for one figure, which have IGNORE alone."""
ABLATIONS = ["without_rejection", "without_average_test", "without_spbc", "without_reg", "weak_view"]
METHODS = [
    "ignore",
    *(f"ignore_{ablation}" for ablation in ABLATIONS),
    "ignore_oracle",
    *("assumed_negative", "wan", "em", "an_ls", "epr", "focal", "asl", "hill", "splc", "gr_loss"),
    *("large_loss_r", "large_loss_ct", "large_loss_cp", "boostlu_r", "boostlu_ct", "boostlu_cp"),
    *("em_apl", "role", "crisp", "mime", "gpr", "aevlp", "vlpl", "clip_probe", "plc", "plc_lac", "iu", "iun", "bce_ls"),
    "full_labels",
]


def fits(space: str, method: str) -> bool:
    """Return whether a space has a method: BoostLU needs a model whose logits are the mean of a CAM, LAC embeddings,
    and CLIP photos.
    """
    if space.startswith(("digits", "l48")) and method in ("aevlp", "vlpl", "clip_probe"):
        return False
    if space.endswith("_q2l") and method == "clip_probe":  # one position is no map to attend to
        return False
    return method != "plc_lac" if not space.endswith("_q2l") else not method.startswith("boostlu")


EACH = [(space, method) for space in SPACES for method in METHODS if fits(space, method)]
CLASSES = {
    "digits": 10,
    "voc": 20,
    "coco": 80,
    "nuswide": 81,
    "cub": 312,
    "l48": 100,
    "folder": 21,
}  # of a template (folder, photos) nobody knows it: 0.05 will do


def for_each(cases: Sequence[tuple[Any, ...]]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Return one test of a check and its cases: it runs all of them, and reports each one that failed."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            failed = []
            for case in cases:
                try:
                    check(*case)
                except Exception as error:
                    failed.append(f"{case}: {type(error).__name__}: {error}")
            assert cases
            assert not failed, f"{len(failed)} of {len(cases)}:\n" + "\n".join(failed)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


def plan(space: str, method: str) -> SweepPlan:
    return plan_sweep(space, method, "common")


def published(space: str, method: str) -> SweepPlan:
    return plan_sweep(space, method, "published")


def methods_of(space: str) -> list[str]:
    """List the blocks of a space."""
    return [method for name, method in EACH if name == space]
