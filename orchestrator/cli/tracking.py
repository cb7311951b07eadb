"""Asks MLflow whether it answers, before a verb starts work that does not need it."""

from __future__ import annotations

import os

from orchestrator.cli.output import print_note
from orchestrator.program import program


def warn_of_mlflow() -> None:
    """Say if MLflow does not answer: a sweep goes on without it, but the user may want to start it first.

    Raises:
        UserError: Its URI is not one of MLflow's.
    """
    from orchestrator.redaction import redact
    from orchestrator.tracking.connection import ask_store, tracking_uri

    answer = ask_store()
    # Without a URI, MLflow's file is in the home, about which the sweep itself complains.
    if answer.is_well or not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    print_note(
        f"note: MLflow at {redact(tracking_uri())} is unavailable ({answer.reason}). The run continues without it. "
        f"What is missing there is written once MLflow is back, or later by: {program()} browse SWEEP"
    )
