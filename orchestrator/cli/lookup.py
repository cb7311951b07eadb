"""Finds a sweep in this home, or else in MLflow."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from orchestrator.cli.output import print_note
from orchestrator.durations import format_seconds

if TYPE_CHECKING:
    from orchestrator.errors import UserError
    from orchestrator.tracking.recall import RecalledSweep


def find_or_recall(sweep: str | None) -> str | RecalledSweep:
    """Return the id of a sweep in this home, or else what MLflow knows about it.

    Raises:
        UserError: Neither has it.
        OrchestratorError: MLflow does not answer.
    """
    from orchestrator.errors import UserError
    from orchestrator.home import require_home
    from orchestrator.sweep_folder.index import find_sweep

    require_home()
    try:
        return find_sweep(sweep)
    except UserError as not_here:
        return _recall(sweep, not_here)


def print_source(found: RecalledSweep) -> None:
    """Say that this sweep is from another home, and how old the information may be."""
    age = ""
    if found.reported_ms is not None:
        age = f"; its last event is {format_seconds(max(0.0, time.time() - found.reported_ms / 1000))} old"
    print_note(
        f"{found.plan.id} is not in this home. This is what MLflow at {found.uri} knows, which may be a few "
        f"seconds behind{age}."
    )


def _recall(sweep: str | None, not_here: UserError) -> RecalledSweep:
    from orchestrator.errors import OrchestratorError, UserError
    from orchestrator.redaction import redact
    from orchestrator.tracking.connection import is_shared, tracking_uri
    from orchestrator.tracking.recall import recall_sweep

    # Without a name, "the latest" of a local MLflow would be that of this home, which has none.
    if sweep is None and not is_shared():
        raise not_here
    try:
        found = recall_sweep(sweep)
    # Say why MLflow was queried at all: the user asked for a sweep, not for MLflow.
    except OrchestratorError as error:
        raise OrchestratorError(f"{str(not_here).rstrip('.')}. MLflow was asked for it, too: {error}") from error
    if found is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise not_here  # MLflow's store is a file of this home: saying that it lacks the sweep too would add nothing
    if found is None:
        which = "a sweep" if sweep is None else f"the sweep {sweep!r}"
        raise UserError(f"Neither this home nor MLflow at {redact(tracking_uri())} has {which}. {not_here}")
    return found
