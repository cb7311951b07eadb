"""What stands in for MLflow in tests of the audit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from orchestrator.tracking import store as mlflow_store
from orchestrator.tracking.store import LoggedSweep
from tests.kit.fake_store import FakeStore
from tests.kit.promoted import Work, make_work


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """Return what stands in for MLflow."""
    fake = FakeStore()

    def find(sweep_id: str) -> LoggedSweep | None:
        runs = fake.find_runs(sweep_id)
        own = [found for found in runs if found.trial is None]
        return LoggedSweep("", own[0], tuple(found for found in runs if found.trial is not None)) if own else None

    def read(run_ids: Iterable[str], metric: str) -> dict[str, dict[int, float]]:
        return {
            run_id: {step: value for found, name, step, _, value in fake.rows if (found, name) == (run_id, metric)}
            for run_id in run_ids
        }

    monkeypatch.setattr(mlflow_store, "find_logged_sweep", find)
    monkeypatch.setattr(mlflow_store, "read_histories", read)
    return fake


@pytest.fixture
def work(home: Path, store: FakeStore) -> Work:
    """Return a search and its promotion, which agree."""
    return make_work(store=store)
