"""A finished sweep, and what stands in for training, the registry and the test split."""

from __future__ import annotations

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from tests.kit import sweeps
from tests.kit.fake_promotion import Store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return what counts the calls that a promotion makes."""
    return Store(monkeypatch)


@pytest.fixture
def swept() -> SweepPlan:
    """A finished sweep, won by trial 3."""
    plan = sweeps.make_sweep(num_trials=4)
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    return plan
