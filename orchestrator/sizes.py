"""Format numbers of bytes."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def format_sizes(*sizes: int) -> list[str]:
    """Format sizes in one unit, with as many digits as it takes to tell them apart: ``104 MB`` and ``96.2 MB``."""
    power = max(0, (len(str(max(sizes))) - 1) // 3)
    unit = _UNITS[min(power, len(_UNITS) - 1)]
    scale = 1000 ** _UNITS.index(unit)
    # With 19 digits, any two numbers of bytes below 10 EB differ.
    for digits in range(3, 20):
        texts = [f"{size / scale:.{digits}g}" for size in sizes]
        if len(set(texts)) == len(set(sizes)):
            break
    return [f"{text} {unit}" for text in texts]
