from __future__ import annotations

import csv
import inspect
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from orchestrator import api
from orchestrator.cli import models as cli_models
from tests.kit.openings import open_set
from tests.kit.program import run
from training import preparation
from training.config.run import DataConfig, TrainConfig
from training.csv_cells import guard_cell, unguard_cell
from training.data.registry import DatasetInfo
from training.data.views import UNIT_SCALE, PixelScale
from training.inference import evaluation
from training.inference.predictor import Predictor, save_model
from training.models.registry import build_model

CLASSES = ["zero", "one", "two"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an untrained model."""
    flat = {
        "data.image_size": 40,
        "model.backbone": "digits/resnet12",
        "model.weights": "none",
        "loop.recipe": "digits",
    }
    config = TrainConfig.from_flat(flat)
    network, _ = build_model(config.model, len(CLASSES), torch.device("cpu"))
    folder = tmp_path_factory.mktemp("model")
    state = {"model": network.state_dict(), "classes": CLASSES, "epoch": 1}
    save_model(folder, config, state, PixelScale(torch.zeros(3), torch.ones(3)), "a card")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in {"red.png": (200, 0, 0), "blue.jpg": (0, 0, 200)}.items():
        Image.new("RGB", (64, 48), colour).save(folder / name)
    return folder


def write_model(folder: Path, classes: list[str]) -> Path:
    """Write the folder of an untrained model."""
    flat = {"data.image_size": 40, "model.backbone": "digits/resnet12", "model.weights": "none"}
    config = TrainConfig.from_flat(flat)
    network, _ = build_model(config.model, len(classes), torch.device("cpu"))
    state = {"model": network.state_dict(), "classes": classes, "epoch": 1}
    save_model(folder, config, state, PixelScale(torch.zeros(3), torch.ones(3)), "a card")
    return folder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a test fail if it gets as far as building a model."""
    monkeypatch.setattr(api, "load_model", lambda *_: pytest.fail("a model was loaded"))


def test_predict_writes_a_row_per_image_as_parquet_or_csv(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "predict", str(model), str(images), "--out", str(tmp_path / "scores.CSV"))
    assert code == 0
    assert "2 images, 3 classes" in out
    run(capsys, "predict", str(model), str(images), "--out", str(tmp_path / "scores.parquet"))
    rows = list(csv.DictReader((tmp_path / "scores.CSV").open()))
    assert [row["file"] for row in rows] == ["blue.jpg", "red.png"]
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["file", *CLASSES]
    assert [float(row["one"]) for row in rows] == pytest.approx(table["one"].to_pylist())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predict_keeps_the_file_names_of_a_class_called_file(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path, suffix: str
) -> None:
    model = write_model(tmp_path / "model", ["file", "image_file", "other"])
    out = tmp_path / f"scores.{suffix}"
    code, _, err = run(capsys, "predict", str(model), str(images), "--out", str(out))
    assert code == 0
    assert "A class is called file, so the file names are in the column image_image_file." in err
    table = pyarrow.csv.read_csv(out) if suffix == "csv" else pyarrow.parquet.read_table(out)
    assert table.column_names == ["image_image_file", "file", "image_file", "other"]
    assert table["image_image_file"].to_pylist() == ["blue.jpg", "red.png"]
    assert all(0 < score < 1 for score in table["file"].to_pylist())


@pytest.mark.parametrize(
    ("options", "has_gpu", "expected"),
    [([], True, "cuda"), ([], False, "cpu"), (["--device", "cpu"], True, "cpu"), (["--device", "cuda"], True, "cuda")],
)
def test_predict_uses_a_gpu_if_there_is_one(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    images: Path,
    tmp_path: Path,
    options: list[str],
    has_gpu: bool,
    expected: str,
) -> None:
    chosen: list[str] = []
    load = Predictor.load

    def load_on_cpu(folder: Path, device: torch.device) -> Predictor:
        chosen.append(device.type)
        return load(folder)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(Predictor, "load", load_on_cpu)
    code, _, _ = run(capsys, "predict", str(model), str(images), "--out", str(tmp_path / "scores.csv"), *options)
    assert (code, chosen) == (0, [expected])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_predict_without_the_gpu_that_was_asked_for_says_what_to_do(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    options = ("--out", str(tmp_path / "scores.csv"), "--device", "cuda")
    code, _, err = run(capsys, "predict", str(model), str(images), *options)
    assert (code, "There is no CUDA GPU here that torch can use. Use --device cpu." in err) == (2, True)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("folder", "hint"),
    [("nowhere", "does not exist"), ("empty", "which is empty. Images end in"), ("red.png", "is a file")],
)
def test_wrong_folder_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], images: Path, folder: str, hint: str
) -> None:
    (images / "empty").mkdir()
    code, _, err = run(capsys, "predict", "digits", str(images / folder), "--out", str(images / "scores.csv"))
    assert (code, hint in err) == (2, True)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("out", "hint"),
    [
        ("no/such/scores.csv", "its folder does not exist"),
        ("folder.csv", "that is a folder"),
        ("a.txt", ".parquet or .csv"),
    ],
)
def test_wrong_place_for_the_scores_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path, out: str, hint: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    code, _, err = run(capsys, "predict", "digits", str(images), "--out", str(tmp_path / out))
    assert (code, hint in err) == (2, True)


def test_broken_image_is_listed_and_the_rest_is_scored(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    (images / "cut.png").write_bytes((images / "red.png").read_bytes()[:60])
    out = tmp_path / "scores.csv"
    code, printed, err = run(capsys, "predict", str(model), str(images), "--out", str(out))
    assert (code, "2 images, 3 classes" in printed) == (1, True)
    assert f"{images / 'cut.png'}: " in err
    assert "error: Cannot read 1 file as images. The scores do not include them." in err
    assert [row["file"] for row in csv.DictReader(out.open())] == ["blue.jpg", "red.png"]


def test_nothing_but_broken_images_writes_nothing(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    for image in images.iterdir():
        image.write_bytes(b"")
    out = tmp_path / "scores.csv"
    code, printed, err = run(capsys, "predict", str(model), str(images), "--out", str(out))
    assert (code, printed, "Nothing was written" in err, out.exists()) == (1, "", True, False)


def test_default_file_of_scores_does_not_litter_a_checkout() -> None:
    default = inspect.signature(cli_models.predict).parameters["out"].default
    assert f"/{default}" in (Path(cli_models.__file__).parents[2] / ".gitignore").read_text().splitlines()


def test_evaluate_hands_over_the_model_and_prints_percent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    asked: list[tuple[float, str]] = []

    def evaluate_split(
        config: TrainConfig, state: dict[str, Any], split: str, threshold: float, absent: str
    ) -> dict[str, float]:
        asked.append((threshold, absent))
        assert state["classes"] == CLASSES
        assert evaluation.restore_model(config, state, torch.device("cpu"))
        return {f"{split}/mAP": 71.234}

    prepared: list[DataConfig] = []
    monkeypatch.setattr(evaluation, "evaluate_split", evaluate_split)
    monkeypatch.setattr(preparation, "is_prepared", lambda data: bool(prepared))
    monkeypatch.setattr(preparation, "prepare", prepared.append)
    info = DatasetInfo("da7a", tuple(CLASSES), UNIT_SCALE, None)
    monkeypatch.setattr("training.data.registry.dataset_info", lambda config: info)
    open_set()
    code, out, _ = run(capsys, "evaluate", str(model))
    assert code == 0
    assert out.splitlines()[1].split() == ["val/mAP", "71.23"]
    assert out.splitlines()[2] == "openings of the test set: 1"
    options = ("--split", "train", "--threshold", "0.75", "--absent-classes", "skip", "--json")
    printed = json.loads(run(capsys, "evaluate", str(model), *options)[1])
    settings = {"split": "train", "threshold": 0.75, "absent_classes": "skip"}
    assert printed == {"model": str(model), **settings, "metrics": {"train/mAP": 71.234}, "test_openings": 1}
    assert asked == [(0.5, "zero"), (0.75, "skip")]
    assert [data.name for data in prepared] == ["digits"]


def test_odd_file_names_cost_no_scores_and_are_harmless_in_a_csv(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    picture = (images / "red.png").read_bytes()
    formula, escape = "=cmd('x').png", "\x1b[2Jz.png"
    for name in (os.fsencode(formula), os.fsencode(escape), b"a\xff.png"):
        Path(os.fsdecode(os.fsencode(images) + b"/" + name)).write_bytes(picture)
    (images / "\x1b]0;gone\x07.png").write_bytes(b"")
    model = write_model(tmp_path / "odd_model", ["@sum", "plain", "-1"])
    for suffix in ("csv", "parquet"):
        out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.") + suffix)
        code, printed, err = run(capsys, "predict", str(model), str(images), "--out", str(out))
        assert (code, "5 images, 3 classes" in printed) == (1, True)
        assert "1 file name is not UTF-8" in err
        assert r"\x1b]0;gone\x07.png: is empty" in err
        assert "\x1b" not in err + printed
        written = io.BytesIO(out.read_bytes())
        table = pyarrow.csv.read_csv(written) if suffix == "csv" else pyarrow.parquet.read_table(written)
        guard = guard_cell if suffix == "csv" else str
        names = sorted(["blue.jpg", "red.png", formula, escape, r"a\xff.png"])
        assert sorted(unguard_cell(name) for name in table["file"].to_pylist()) == names
        assert guard(formula) in table["file"].to_pylist()
        assert table.column_names == ["file", guard("@sum"), "plain", "-1"]
