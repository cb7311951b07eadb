"""Format durations."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """Format a duration: ``43 s``, ``2 min 05 s``, ``3 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_estimate(seconds: float) -> str:
    """Format an estimate, to the minute: ``1 min`` (the least), ``12 min``, ``3 h 07 min``."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_hours(hours: float) -> str:
    """Format hours of GPUs or CPUs with as many digits as matter: ``0.034``, ``2.6``, ``31``."""
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"
