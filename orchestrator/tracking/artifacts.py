"""Read the pictures and tables of a sweep's trials back from MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking.connection import connect
from orchestrator.tracking.store import MlflowStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

SUFFIXES = (".png", ".parquet", ".txt", ".csv", ".json", ".yaml")


def read_artifacts(plan: SweepPlan) -> Iterator[tuple[int, str, bytes]]:
    """Yield the trial, the path and the content of each picture and table of a sweep's runs.

    Raises:
        OrchestratorError: MLflow does not answer.
        Exception: Whatever MLflow and its artifact storage raise.
    """
    client = connect()
    with tempfile.TemporaryDirectory() as folder:
        for run in MlflowStore(plan.dataset).find_runs(plan.id):
            if run.trial is None:
                continue
            for path in _list(client, run.run_id, ""):
                file = Path(client.download_artifacts(run.run_id, path, folder))
                yield run.trial, path, file.read_bytes()
                # One at a time: all artifacts of a large sweep together may not fit on the disk.
                file.unlink()


def _list(client: MlflowClient, run_id: str, folder: str) -> Iterator[str]:
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from _list(client, run_id, item.path)
        # Models and other large files are not part of a bundle.
        elif item.path.endswith(SUFFIXES):
            yield item.path
