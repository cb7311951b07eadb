"""The orchestrator as a library; everything else is imported from its modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_results"]


def read_results(place: str | Path | None = None) -> pd.DataFrame:
    """Return the results of a sweep, a file or a folder, see :func:`orchestrator.results.frame.read_results`."""
    # Imported here: every command imports this package, and --help should not wait for it.
    from orchestrator.results import frame

    return frame.read_results(place)
