"""Name the recipe by which a method is trained. Results of different recipes are never compared."""

from __future__ import annotations

from collections.abc import Mapping

from training.config.run import PLACE_KEYS, Scalar

RECIPE_KEY = "loop.recipe"
COMMON = "common"
"""One set-up for all methods of a space."""
PUBLISHED = "published"
"""Each method as its authors train it."""
CUSTOM = "custom"
"""Any other recipe, for example a published one that was changed."""

FREE_KEYS = PLACE_KEYS | {
    "data.scene_seed",
    "data.split_seed",
    "data.draw_seed",
    "loop.seed",
    "loop.num_threads",
    "loop.compile",
    "loop.select_epoch_by",
}
"""Settings that are not part of a recipe: where the data is, seeds, hardware, and the protocol."""


def name_recipe(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> Scalar:
    """Return the name of the recipe after a change from some complete settings to others (dotted key -> value)."""
    changed = any(before[key] != after.get(key) for key in before if key not in FREE_KEYS)
    return CUSTOM if changed and before[RECIPE_KEY] == PUBLISHED else before[RECIPE_KEY]
