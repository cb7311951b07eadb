from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from orchestrator.cli import models as cli_models
from orchestrator.promotion import promote as promotion_module
from orchestrator.promotion.promote import PromotionOutcome
from orchestrator.promotion.verdict import Decision, Verdict
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.journal import replay
from tests.kit.program import parse, run
from tests.kit.sweeps import (
    driver_ended,
    driver_started,
    epoch_reported,
    journal_path,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)
from training import preparation
from training.config.run import DataConfig, TrainConfig
from training.data.views import PixelScale
from training.inference import evaluation
from training.inference.predictor import Predictor, save_model
from training.models.registry import build_model

MODEL = "digits.resnet_cam.clean-val.clean-val.0b04361c"
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


def test_predict_writes_a_row_per_image_as_parquet_or_csv(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "predict", str(model), str(images), "--out", str(tmp_path / "scores.csv"))
    assert code == 0
    assert "2 images, 3 classes" in out
    run(capsys, "predict", str(model), str(images), "--out", str(tmp_path / "scores.parquet"))
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["file"] for row in rows] == ["blue.jpg", "red.png"]
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["file", *CLASSES]
    assert [float(row["one"]) for row in rows] == pytest.approx(table["one"].to_pylist())


def write_model(folder: Path, classes: list[str]) -> Path:
    """Write the folder of an untrained model."""
    flat = {"data.image_size": 40, "model.backbone": "digits/resnet12", "model.weights": "none"}
    config = TrainConfig.from_flat(flat)
    network, _ = build_model(config.model, len(classes), torch.device("cpu"))
    state = {"model": network.state_dict(), "classes": classes, "epoch": 1}
    save_model(folder, config, state, PixelScale(torch.zeros(3), torch.ones(3)), "a card")
    return folder


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


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test fail that comes as far as a model."""
    monkeypatch.setattr(cli_models, "_load_predictor", lambda *_: pytest.fail("a model was loaded"))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("folder", "hint"), [("nowhere", "does not exist"), ("empty", "No images in DIR="), ("red.png", "is a file")]
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
    [("no/such/scores.csv", "no such folder"), ("folder.csv", "it is a folder"), ("a.txt", ".parquet or .csv")],
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
    assert "error: every file must be a whole image, but 1 cannot be read; they are not among the scores." in err
    assert [row["file"] for row in csv.DictReader(out.open())] == ["blue.jpg", "red.png"]


def test_nothing_but_broken_images_writes_nothing(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    for image in images.iterdir():
        image.write_bytes(b"")
    out = tmp_path / "scores.csv"
    code, printed, err = run(capsys, "predict", str(model), str(images), "--out", str(out))
    assert (code, printed, "nothing is written" in err, out.exists()) == (1, "", True, False)


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
    code, out, _ = run(capsys, "evaluate", str(model))
    assert code == 0
    assert out.splitlines()[1].split() == ["val/mAP", "71.23"]
    options = ("--split", "train", "--threshold", "0.75", "--absent-classes", "skip", "--json")
    printed = json.loads(run(capsys, "evaluate", str(model), *options)[1])
    settings = {"split": "train", "threshold": 0.75, "absent_classes": "skip"}
    assert printed == {"model": str(model), **settings, "metrics": {"train/mAP": 71.234}}
    assert asked == [(0.5, "zero"), (0.75, "skip")]
    assert [data.name for data in prepared] == ["digits"]


@pytest.fixture
def promotion(finished: str) -> PromotionOutcome:
    """Return what came of promoting a sweep with two seeds."""
    plan = make_sweep("digits-promote-00000002", kind="promote", parent=finished, num_trials=2)
    events = [driver_started(plan)]
    for run_number, score in enumerate((70.0, 68.0)):
        events += [
            trial_started(run_number, 1, **{"loop.seed": 1001 + run_number}),
            epoch_reported(run_number, 1, 2, score),
            trial_ended(run_number, 3),
        ]
    write_events(plan, [*events, driver_ended(4)])
    records = tuple(replay(journal_path(plan)).records.values())
    decision = Decision(Verdict.PROMOTE, "69.00 is higher than 65.00", ("label-draw seed is 7 and not 1200",))
    test = {0: {"test/mAP": 66.0}, 1: {"test/mAP": 64.0}}
    return PromotionOutcome(
        plan, records, "FINISHED", 9.0, decision, test, MODEL, f"{MODEL}/3", Path("promoted", "a.yaml")
    )


@pytest.fixture
def promote(monkeypatch: pytest.MonkeyPatch, promotion: PromotionOutcome) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that puts a promotion with changes in place of the real one, and returns what it is called
    with.
    """

    def put(**changes: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def promoted(sweep_id: str, options: DriveOptions, **how: Any) -> PromotionOutcome:
            calls.append({"id": sweep_id, **vars(options), **how})
            return replace(promotion, **changes)

        monkeypatch.setattr(promotion_module, "promote", promoted)
        monkeypatch.setattr(promotion_module, "resume_promotion", promoted)
        return calls

    return put


def test_promote_prints_runs_decision_and_what_to_do_with_the_model(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], finished: str
) -> None:
    calls = promote()
    code, out, _ = run(capsys, "promote", "--seeds", "2")
    assert code == 0
    assert (calls[0]["id"], calls[0]["seeds"], calls[0]["workers"]) == (finished, 2, None)
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["0", "1001", "COMPLETE", "70.00", "1", "66.00"],
        ["1", "1002", "COMPLETE", "68.00", "1", "64.00"],
    ]
    assert "PROMOTE: 69.00 is higher than 65.00" in out
    assert "label-draw seed is 7 and not 1200" in out
    assert "test/mAP: 65.00 +- 1.41 over 2 seeds" in out
    assert f"{MODEL}/3" in out
    for command in out.partition("next:\n")[2].splitlines():
        parse(command.partition("#")[0])
    printed = json.loads(run(capsys, "promote", "--json")[1])
    assert (printed["verdict"], printed["version"], printed["runs"][1]["test"]) == (
        "PROMOTE",
        f"{MODEL}/3",
        {"test/mAP": 64.0},
    )


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.KEEP, 0), (Verdict.REFUSE, 1)])
def test_what_is_not_promoted_offers_no_model(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], verdict: Verdict, code: int
) -> None:
    promote(decision=Decision(verdict, "69.00 is not higher than 70.00"), version=None)
    found, out, _ = run(capsys, "promote")
    assert found == code
    assert f"{verdict}: 69.00 is not higher than 70.00" in out
    assert "@champion" not in out


def test_promotion_is_resumed_by_its_id_and_exits_with_130_when_stopped(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], promotion: PromotionOutcome
) -> None:
    calls = promote(state="INTERRUPTED", decision=None)
    code, out, err = run(capsys, "resume", promotion.plan.id)
    assert (code, out, calls[0]["id"]) == (130, "", promotion.plan.id)
    assert f"orchestrator resume {promotion.plan.id}" in err


def test_stopped_promotion_repeats_the_flag_that_its_plan_does_not_have(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], finished: str
) -> None:
    promote(state="INTERRUPTED", decision=None, keep_weights=True)
    _, _, err = run(capsys, "promote", finished, "--keep-weights")
    assert f"orchestrator promote {finished} --seeds 2 --workers 1 --keep-weights" in err


def test_promotion_that_is_trained_but_not_decided_is_to_be_resumed(
    capsys: pytest.CaptureFixture[str], promotion: PromotionOutcome
) -> None:
    _, out, _ = run(capsys, "status", promotion.plan.id)
    assert f"orchestrator resume {promotion.plan.id}" in out
    decided: dict[str, Any] = {
        "event": "promotion_decided",
        "verdict": "KEEP",
        "reason": "not higher",
        "marks": [],
        "model": MODEL,
        "champion": None,
    }
    write_events(promotion.plan, [decided])
    _, out, _ = run(capsys, "status", promotion.plan.id)
    assert "KEEP: not higher" in out
    assert "resume" not in out
