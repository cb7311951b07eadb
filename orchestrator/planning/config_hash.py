"""Hash the settings of a run, to say whether two runs differ in more than their seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from training.config.run import ADDED_SETTINGS, PLACE_KEYS, Scalar

SEED_KEYS = frozenset({"loop.seed", "data.draw_seed"})


def hash_config(flat: Mapping[str, Scalar]) -> str:
    """Return 12 hex digits of the sha256 of all settings, without seeds and places.

    Args:
        flat: Complete settings under dotted keys, as :meth:`training.config.run.TrainConfig.flatten` returns them.
    """
    settings = {
        key: value
        for key, value in flat.items()
        # Settings that came later count only where they differ, so that the hash of an earlier result stays.
        if key not in PLACE_KEYS | SEED_KEYS and ADDED_SETTINGS.get(key, ...) != value
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
