"""Find a sweep in this home, or else in MLflow."""

from __future__ import annotations

import os

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import require_home
from orchestrator.redaction import redact
from orchestrator.sweep_folder.index import find_similar, find_sweep
from orchestrator.tracking.connection import database_file, tracking_uri
from orchestrator.tracking.recall import RecalledSweep, recall_sweep


def find_or_recall(sweep: str | None) -> str | RecalledSweep:
    """Return the id of a sweep in this home, or else what MLflow knows about it.

    Raises:
        UserError: Neither has it.
        OrchestratorError: MLflow does not answer.
    """
    require_home()
    try:
        return find_sweep(sweep)
    except UserError as not_here:
        return _recall(sweep, not_here)


def _recall(sweep: str | None, not_here: UserError) -> RecalledSweep:
    # The file of a local MLflow has what the home has. Without a name nothing is missing, and a name much like one of
    # the home is misspelt: no need to ask MLflow, which takes seconds.
    file = database_file()
    if file is not None and (sweep is None or not file.exists() or find_similar(sweep)):
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
