"""The plan of a promotion's final runs."""

from __future__ import annotations

import pytest

from orchestrator.planning.sweep_plan import Resources
from orchestrator.promotion.final_runs import count_workers
from tests.kit import sweeps


def test_workers_of_a_promotion_on_a_cluster_are_those_that_its_gpus_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.size.count_cluster", lambda address: {"num_cpus": 64, "num_gpus": 8})
    whole, shared = (
        sweeps.make_sweep(f"{name}-00000001", resources=Resources(gpus_per_worker=gpus))
        for name, gpus in (("a", 2), ("b", 0.5))
    )
    assert count_workers(whole, 16, "auto") == 4
    assert count_workers(shared, 16, "auto") == 8, "two ranks do not share a GPU"
    assert count_workers(shared, 20, "auto") == 5, "each has the same share of the batch"
    assert count_workers(sweeps.make_sweep("digits-00000002"), 16, "auto") == 1
