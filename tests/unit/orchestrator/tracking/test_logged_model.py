"""Test that MLflow itself loads a registered model, and gives the scores that our own predictor gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from PIL import Image

from orchestrator.tracking.connection import make_client, tracking_uri
from orchestrator.tracking.registry import find_model, register_version, set_champion
from tests.kit.scenes import pixels_of, prepare_tiny, tiny_config
from training.data.registry import dataset_info, load_split
from training.inference.predictor import Predictor, save_model
from training.loop.run import TrainingRun

pytestmark = pytest.mark.slow

NAME = "digits.resnet_cam.clean-val.clean-val.0123abcd"


def test_mlflow_loads_a_registered_model_from_its_name_run_and_version(
    home: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, home / "mlflow.db")
    client = make_client()
    experiment = client.create_experiment("digits", artifact_location=(home / "artifacts" / "digits").as_uri())
    run_id = client.create_run(experiment).info.run_id
    prepare_tiny()
    training = TrainingRun(tiny_config({"method.name": "assumed_negative"}))
    training.train_epoch()
    folder = tmp_path / "model"
    save_model(folder, training.config, training.best_state(), dataset_info(training.config.data).scale, "# A card\n")
    version = register_version(NAME, "digits", run_id, folder, {})
    set_champion(version)
    # Once more, as a promotion that was resumed does.
    assert str(register_version(NAME, "digits", run_id, folder, {})) == str(version) == f"{NAME}/1"

    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.source_run_id, str(logged.status)) == (run_id, "READY")
    assert NAME in logged.tags["mlflow.modelVersions"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())  # set_tracking_uri would last beyond this test
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    assert [column.name for column in loaded.metadata.signature.inputs] == ["image"]

    images = pixels_of(load_split(training.config.data, "val"))[:3]
    files = []
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    scores = loaded.predict(pd.DataFrame({"image": files}))
    ours = Predictor.load(find_model(NAME))
    assert list(scores.columns) == list(ours.classes)
    torch.testing.assert_close(torch.tensor(scores.to_numpy()), ours.logits(images).sigmoid().double())
    with pytest.raises(ValueError, match="Image 1 cannot be read"):
        loaded.predict(pd.DataFrame({"image": [files[0], b"no picture"]}))


def test_a_model_that_an_earlier_version_registered_is_found_among_its_runs_artifacts(
    home: Path, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, home / "mlflow.db")
    client = make_client()
    experiment = client.create_experiment("digits", artifact_location=(home / "artifacts" / "digits").as_uri())
    run = client.create_run(experiment)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    client.log_artifacts(run.info.run_id, str(tmp_path / "model"), "model")
    client.create_registered_model(NAME)
    client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id)
    assert (find_model(f"{NAME}/1") / "model.safetensors").read_bytes() == b"x"
