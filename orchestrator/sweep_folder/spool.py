"""Keep a trial's artifacts until they are in MLflow, and store the tracebacks of failed trials."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.home import ERRORS_DIR, SPOOL_DIR, sweep_dir, trial_name
from orchestrator.redaction import redact


def spool_artifacts(sweep_id: str, trial: int, files: dict[str, bytes]) -> None:
    """Write a trial's artifacts to a folder from which the tracker logs them; it appears once it is complete.

    Raises:
        OrchestratorError: The disk is full or not writable.
    """
    target = sweep_dir(sweep_id) / SPOOL_DIR / trial_name(trial)
    draft = target.with_name(f".{target.name}")
    with _on_disk(f"the artifacts of trial {trial}", target, sweep_id):
        shutil.rmtree(draft, ignore_errors=True)  # left by a driver that was killed
        for name, content in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # A repeated last epoch replaces the artifacts; the tracker only ever sees a complete folder.
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)


def write_error(sweep_id: str, trial: int, details: str) -> Path:
    """Write the traceback of a failed trial next to the journal, which has only its first line.

    Raises:
        OrchestratorError: The disk is full or not writable.
    """
    path = sweep_dir(sweep_id) / ERRORS_DIR / f"{trial_name(trial)}.txt"
    with _on_disk(f"the traceback of trial {trial}", path, sweep_id):
        path.parent.mkdir(exist_ok=True)
        path.write_text(redact(details), encoding="utf-8")
    return path


@contextmanager
def _on_disk(subject: str, path: Path, sweep_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OrchestratorError(
            f"Cannot write {subject} to {path} ({error.strerror or error}). Free some space, then continue: "
            f"`orchestrator resume {sweep_id}`"
        ) from error
