"""The recipe's name, which every result carries: how the method was trained. Results of different recipes are never
compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.config.run import PLACE_KEYS, Scalar

RECIPE_KEY = "loop.recipe"
COMMON = "common"
"""One set-up for all methods of a space."""
PUBLISHED = "published"
"""Each method as its authors train it."""
CUSTOM = "custom"
"""Any other, a published one that was changed among them."""

FREE_KEYS = PLACE_KEYS | {
    "data.scene_seed",
    "data.split_seed",
    "data.draw_seed",
    "loop.seed",
    "loop.num_threads",
    "loop.compile",
    "loop.select_epoch_by",
}
"""Settings that are no part of a recipe: where data lie, seeds, what a run computes with; and the protocol, which
stands beside it.
"""


def name_recipe(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> Scalar:
    """Return the recipe's name after complete settings (dotted key -> value) were changed."""
    changed = any(before[key] != after.get(key) for key in before if key not in FREE_KEYS)
    return CUSTOM if changed and before[RECIPE_KEY] == PUBLISHED else before[RECIPE_KEY]
