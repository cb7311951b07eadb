"""Test the rows of results: the chosen epoch, nothing averaged, nothing filled in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.errors import UserError
from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep_folder.events import EpochReported, Event
from orchestrator.sweep_folder.journal import follow, replay
from orchestrator.sweep_folder.rows import COLUMNS, make_rows, read_origins, write_results
from tests.kit import sweeps


@pytest.fixture
def plan(home: Path) -> SweepPlan:
    """Return a sweep on GPUs whose second driver had other code, with counted images in trial 0."""
    plan = sweeps.make_sweep(num_trials=4, resources=Resources(workers=2, gpus_per_worker=0.5))
    events = [_count_images(event) for event in sweeps.whole_sweep(plan)]
    events[14] = sweeps.driver_started(plan, 20, sweeps.PROVENANCE | {"commit": "decaf", "dirty": "true"})
    sweeps.write_events(plan, events)
    return plan


def _count_images(event: Event) -> Event:
    if isinstance(event, EpochReported) and event.trial == 0:
        return replace(event, metrics={**event.metrics, "train/images_forward": 40.0, "train/images_backward": 20.0})
    return event


def rows_of(plan: SweepPlan) -> list[dict[str, Any]]:
    path = sweeps.journal_path(plan)
    return make_rows(plan, replay(path), read_origins(follow(path)[0]))


def test_each_run_has_the_values_of_its_chosen_epoch(plan: SweepPlan) -> None:
    rows = rows_of(plan)
    assert all(set(row) == set(COLUMNS) for row in rows)
    maps = {row["trial"]: row for row in rows if row["metric"] == "val/mAP"}
    assert [(row["trial"], row["state"], row["epoch"], row["value"]) for row in maps.values()] == [
        (0, "COMPLETE", 2, 70.0),  # its third and last epoch has 65.0
        (1, "PRUNED", 1, 40.0),
        (2, "FAILED", None, None),
        (3, "COMPLETE", 3, 80.0),
    ]
    assert (maps[2]["cause"], maps[0]["cause"]) == ("NAN", None)
    assert [row["metric"] for row in rows if row["trial"] == 0] == ["val/mAP", "val/observed_mAP"]
    assert (maps[0]["images_forward"], maps[0]["images_backward"]) == (120.0, 60.0)
    assert maps[3]["images_forward"] is None, "an earlier version did not count"
    assert (maps[0]["seconds"], maps[0]["gpu_seconds"]) == (5.1, 4.85), "without the wait for its process"


def test_each_run_says_where_it_comes_from(plan: SweepPlan) -> None:
    rows = {row["trial"]: row for row in rows_of(plan)}
    assert [(row["commit"], row["dirty"]) for row in rows.values()] == [("c0ffee", "false")] * 3 + [("decaf", "true")]
    first = rows[0]
    assert (first["cell"], first["recipe"], first["protocol"]) == ("digits/ignore", "digits", "clean-val x clean-val")
    assert (first["training_seed"], first["draw_seed"], first["world_size"]) == (0, 1200, 2)
    assert first["config_hash"] != rows[1]["config_hash"]
    assert (first["data_hash"], first["weights_hash"]) == ("da7a", "3e1647")
    assert len(first["environment_hash"]) == 12


def test_results_are_read_from_a_sweep_a_file_and_a_folder(plan: SweepPlan, tmp_path: Path) -> None:
    path = write_results(plan, replay(sweeps.journal_path(plan)))
    assert path == sweep_dir(plan.id) / "results.parquet"
    assert pq.read_table(path).to_pylist() == rows_of(plan)
    for place in (None, plan.id, plan.name, path, sweeps_dir()):
        frame = orchestrator.read_results(place)
        assert list(frame.columns) == list(COLUMNS)
        assert len(frame) == len(rows_of(plan))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(UserError, match=r"No results.parquet in"):
        orchestrator.read_results(elsewhere)
    with pytest.raises(UserError, match="No sweep 'nowhere'"):
        orchestrator.read_results("nowhere")
    (elsewhere / "results.parquet").write_text("broken")
    with pytest.raises(UserError, match="Cannot read the results"):
        orchestrator.read_results(elsewhere)
