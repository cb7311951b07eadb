"""Fixtures that several tests of the verbs share."""

from __future__ import annotations

import pytest

from tests.kit.sweeps import make_sweep, whole_sweep, write_events


@pytest.fixture
def finished() -> str:
    """Leave a finished sweep in the home; return its id."""
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    return plan.id
