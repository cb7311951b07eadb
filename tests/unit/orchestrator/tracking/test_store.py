"""Test what a real MLflow store has of a sweep, as its UI and its users read it."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking.connection import make_client
from orchestrator.tracking.store import MlflowStore, find_sweep_run, has_experiment_tag
from orchestrator.tracking.tracker import sync
from orchestrator.tracking.views import VIEW_TAG, make_view_tags
from search_spaces.ranges import Range
from tests.kit import sweeps

pytestmark = pytest.mark.slow

KNOWN = sweeps.PROVENANCE | {"data_hash": "5eed" * 16, "num_train": "120", "num_classes": "10"}


@pytest.fixture
def plan(home: Path, empty_store: Path) -> SweepPlan:
    shutil.copy(empty_store, home / "mlflow.db")
    plan = sweeps.make_sweep(ranges={"method.cam_threshold": Range(type="float", low=0.3, high=0.9)})
    events = sweeps.whole_sweep(plan)
    events[0], events[14] = sweeps.driver_started(plan, 0, KNOWN), sweeps.driver_started(plan, 20, KNOWN)
    sweeps.write_events(plan, events)
    return plan


def _view(plan: SweepPlan) -> Any:
    (text,) = make_view_tags(plan).values()
    kind, _, state = json.loads(text)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(state)))


def _search(client: MlflowClient, plan: SweepPlan) -> list[Run]:
    """Search as MLflow's page does with the sweep's view."""
    view, (experiment,) = _view(plan), client.search_experiments(filter_string=f"name = '{plan.dataset}'")
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    return list(client.search_runs([experiment.experiment_id], str(view["searchFilter"]), order_by=[order]))


def test_a_store_shows_a_sweep_as_a_training_with_its_dataset_source_and_scores(plan: SweepPlan) -> None:
    assert sync(plan.id)
    client = make_client()
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = _search(client, plan)
    # The view has the trials alone, the best first.
    names = [run.info.run_name for run in runs]
    assert names == ["t0003", "t0000 tau 0.5", "t0001 tau 0.6", "t0002"]
    best = runs[0]
    assert best.data.metrics["chosen/val/mAP"] == 80.0
    assert best.data.tags["mlflow.source.name"] == "orchestrator sweep digits"
    assert best.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert best.inputs is not None
    (used,) = best.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "5eed5eed5eed")
    assert json.loads(used.dataset.profile or "") == {"num_train": 120, "num_classes": 10}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    found = find_sweep_run(plan)
    assert found is not None
    assert has_experiment_tag(found[0], f"{VIEW_TAG}{plan.id}")
    own = client.get_run(found[1])
    assert own.data.metrics["best/val/mAP"] == 80.0
    assert f"#/experiments/{found[0]}/runs/{best.info.run_id}" in own.data.tags["mlflow.note.content"]


def test_what_a_user_wrote_at_an_experiment_is_kept(plan: SweepPlan) -> None:
    client = make_client()
    made = client.create_experiment(plan.dataset, tags={"mlflow.note.content": "Ours."})  # as earlier versions did
    MlflowStore(plan.dataset)
    tags = client.get_experiment(made).tags
    assert (tags["mlflow.note.content"], tags["mlflow.experimentKind"]) == ("Ours.", "custom_model_development")


def test_a_view_has_the_columns_that_differ_and_fits_into_a_tag(plan: SweepPlan) -> None:
    view = _view(plan)
    assert {"metrics.`chosen/val/mAP`", "params.`method.cam_threshold`"} <= set(view["selectedColumns"])
    ranges = {f"method.{'x' * 60}{number}": Range(type="int", low=0, high=1) for number in range(90)}
    (text,) = make_view_tags(sweeps.make_sweep("large-00000001", ranges=ranges)).values()
    assert len(text) < 5000
