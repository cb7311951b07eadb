"""Looks at MLflow before a verb starts what goes on without it."""

from __future__ import annotations

from orchestrator.cli.output import print_note, program


def warn_of_mlflow() -> None:
    """Say if MLflow does not answer: a sweep goes on without it, but the user may want to start it first.

    Raises:
        UserError: Its URI is not one of MLflow's.
    """
    from orchestrator.redaction import redact
    from orchestrator.tracking.connection import ask_store, tracking_uri

    answer = ask_store()
    if answer.is_well:
        return
    print_note(
        f"note: MLflow at {redact(tracking_uri())} is unavailable ({answer.reason}). The run goes on without it. What "
        f"is missing there is written when it is back, or later: {program()} browse SWEEP"
    )
