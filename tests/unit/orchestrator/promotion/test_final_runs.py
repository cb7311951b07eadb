"""The plan of a promotion's final runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import Resources
from orchestrator.promotion.final_runs import choose_draws, count_workers
from tests.kit import sweeps
from tests.kit.stores import make_store, store_config
from training.errors import DatasetError


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


def test_given_labels_are_not_drawn(tmp_path: Path) -> None:
    for given, draws in ((True, ()), (False, (1200, 1201, 1202))):
        config = store_config(make_store(tmp_path / str(given), observed_only=given))
        plan = sweeps.make_sweep(f"store-0000000{int(given)}", base=config.flatten(), dataset=config.data.name)
        assert choose_draws(plan, 1) == draws[:1]
        if given:
            with pytest.raises(UserError, match="--draws=3 needs labels that are drawn, but the .* of mine"):
                choose_draws(plan, 3)
        else:
            assert choose_draws(plan, 3) == draws
    assert choose_draws(sweeps.make_sweep("digits-00000003"), 2) == (1200, 1201)
    gone = replace(plan, base={**plan.base, "data.store": str(tmp_path / "gone")})
    assert choose_draws(gone, 1) is None
    with pytest.raises(DatasetError):
        choose_draws(gone, 2)
