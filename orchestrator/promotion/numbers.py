"""Check figures that a rule is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def require_finite(values: Sequence[float], name: str, least: int = 1) -> Floats:
    """Return values as an array.

    Raises:
        ValueError: There are fewer than ``least``, or one is not a finite number.
    """
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or found.size < least:
        raise ValueError(f"{name} must have at least {least} value{'s' * (least > 1)}, but got {found.size}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers, but got {', '.join(map(str, found))[:80]}")
    return found


def require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but got {level}")
