"""Says that a sweep comes from another home."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.cli.output import print_note
from orchestrator.durations import format_seconds

if TYPE_CHECKING:
    from orchestrator.tracking.recall import RecalledSweep


def print_source(found: RecalledSweep) -> None:
    """Say that this sweep is from another home, and how old the information may be."""
    age = ""
    if found.reported_ms is not None:
        age = f"; its last event is {format_seconds(max(0.0, time.time() - found.reported_ms / 1000))} old"
    print_note(
        f"{found.plan.id} is not in this home. This is what MLflow at {found.uri} knows, which may be a few "
        f"seconds behind{age}."
    )
