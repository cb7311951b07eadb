"""Store a promoted model as one of MLflow's logged models, linked to its run, which MLflow can load and serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.served_model import IMAGE_COLUMN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

_LOADER = "orchestrator.tracking.served_model"
_VERSIONS_TAG = "mlflow.modelVersions"


def log_model(client: MlflowClient, run: Run, name: str, folder: Path) -> LoggedModel:
    """Store a model's folder, and return the logged model; a model that a kill left unfinished is finished.

    Args:
        client: MLflow.
        run: The run that trained it.
        name: A name for MLflow's lists.
        folder: What :func:`training.inference.predictor.save_model` wrote; MLflow's ``MLmodel`` is added.
    """
    from mlflow.entities import LoggedModelOutput

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    own = f"source_run_id = '{run_id}'"
    known = client.search_logged_models([experiment_id], filter_string=own, max_results=1)
    # MLflow accepts none of these characters.
    plain = "".join("-" if character in "/:.%\"'" else character for character in name)
    model = known[0] if known else client.create_logged_model(experiment_id, plain, run_id, model_type="classifier")
    _write_description(folder, run_id, model.model_id)
    client.log_model_artifacts(model.model_id, str(folder))
    if not (run.outputs and run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.finalize_logged_model(model.model_id, "READY")


def link_version(client: MlflowClient, model: LoggedModel, version: ModelVersion) -> None:
    """Name a registered version on the page of its logged model."""
    versions = [{"name": version.name, "version": version.version}]
    client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: json.dumps(versions)})


def _write_description(folder: Path, run_id: str, model_id: str) -> None:
    """Write ``MLmodel``, which says how MLflow loads the folder and what goes in and comes out."""
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    model = Model(run_id=run_id, model_id=model_id, signature=_signature(classes))
    add_to_model(model, loader_module=_LOADER)  # type: ignore[no-untyped-call]
    model.save(str(folder / "MLmodel"))


def _signature(classes: Sequence[str]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.binary, IMAGE_COLUMN)])
    return ModelSignature(inputs, Schema([ColSpec(DataType.double, name) for name in classes]))
