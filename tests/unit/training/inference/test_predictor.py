"""Save, load and use a promoted model: the same logits, folders of images, broken files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from tests.kit.damage import DAMAGES, FOLDER, damage, restore
from tests.kit.scenes import pixels_of, tiny_config
from training.config.run import TrainConfig
from training.data.registry import dataset_info, load_split
from training.data.split import SplitData
from training.inference.evaluation import restore_model
from training.inference.predictor import Predictor, choose_device, choose_file_column, save_model
from training.loop.run import TrainingRun, score_split

pytestmark = pytest.mark.usefixtures("tiny_scenes")


@pytest.fixture(scope="module")
def run(tiny_scenes: None) -> TrainingRun:
    """Return a run after one epoch."""
    run = TrainingRun(tiny_config({"method.name": "assumed_negative"}))
    run.train_epoch()
    return run


@pytest.fixture
def folder(run: TrainingRun, tmp_path: Path) -> Path:
    """Return the run's model folder."""
    save_model(tmp_path / "model", run.config, run.best_state(), dataset_info(run.config.data).scale, "# A card\n")
    return tmp_path / "model"


def val(run: TrainingRun) -> SplitData:
    return load_split(run.config.data, "val")


def write_images(images: Tensor, folder: Path) -> None:
    (folder / "deeper").mkdir(parents=True)
    for number, image in enumerate(images):
        place = folder / "deeper" if number % 2 else folder
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number:02d}.png")


def test_folder_holds_weights_settings_classes_and_card_and_nothing_pickled(folder: Path, run: TrainingRun) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "classes.json",
        "config.json",
        "model.safetensors",
    ]
    assert (folder / "README.md").read_text() == "# A card\n"
    assert TrainConfig.from_flat(json.loads((folder / "config.json").read_text())["config"]) == run.config


def test_loaded_model_gives_the_same_logits(folder: Path, run: TrainingRun) -> None:
    split = val(run)
    expected = score_split(
        restore_model(run.config, run.best_state(), torch.device("cpu")),
        split,
        dataset_info(run.config.data).scale,
        torch.device("cpu"),
    )
    predictor = Predictor.load(folder)
    assert predictor.classes == split.classes
    torch.testing.assert_close(predictor.logits(pixels_of(split)), expected, rtol=1e-6, atol=1e-6)
    assert predictor.logits(pixels_of(split)[:0]).shape == (0, 10)


def test_run_and_loaded_model_agree(folder: Path, run: TrainingRun) -> None:
    logits = Predictor.load(folder).logits(pixels_of(val(run)))
    torch.testing.assert_close(logits, run._val_scores()[0], rtol=1e-6, atol=1e-6)


def test_folder_of_images_is_scored_by_file_in_order(folder: Path, run: TrainingRun, tmp_path: Path) -> None:
    images = pixels_of(val(run))[:5]
    write_images(images, tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    table = Predictor.load(folder).predict_folder(tmp_path / "images").table
    assert table.column_names == ["file", *(str(digit) for digit in range(10))]
    assert table["file"].to_pylist() == ["00.png", "02.png", "04.png", "deeper/01.png", "deeper/03.png"]
    scores = np.stack([table[name].to_numpy() for name in table.column_names[1:]], axis=1)
    expected = Predictor.load(folder).logits(images[[0, 2, 4, 1, 3]]).sigmoid().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_images_of_any_size_and_mode_are_scored(folder: Path, tmp_path: Path) -> None:
    for mode, size in (("L", (17, 90)), ("RGBA", (40, 40)), ("P", (8, 8)), ("RGB", (200, 100))):
        Image.new(mode, size).save(tmp_path / f"{mode}.png")
    assert Predictor.load(folder).predict_folder(tmp_path).table.num_rows == 4


def break_image(path: Path, how: str) -> None:
    """Write a file with the name of an image that is not one, or only part of one."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = bytearray(path.read_bytes())
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(
        {"empty": b"", "text": b"no picture", "cut": bytes(whole[: len(whole) // 2]), "damaged": bytes(damaged)}[how]
    )


def test_broken_images_are_named_with_the_reason_and_the_rest_is_scored(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "z.png"):
        Image.new("RGB", (40, 40)).save(images / name)
    for how in ("empty", "text", "cut", "damaged"):
        break_image(images / f"{how}.png", how)
    found = Predictor.load(folder).predict_folder(images)
    assert found.table["file"].to_pylist() == ["a.png", "z.png"]
    assert [broken.file for broken in found.broken] == ["cut.png", "damaged.png", "empty.png", "text.png"]
    assert all(broken.reason for broken in found.broken)


def test_photo_is_turned_upright_as_a_store_turns_it(folder: Path, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    noise.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # viewers rotate it by 90 degrees clockwise
    noise.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, upright = Predictor.load(folder).predict_folder(tmp_path).table.to_pylist()
    assert [turned.pop("file"), upright.pop("file")] == ["turned.png", "upright.png"]
    assert turned == pytest.approx(upright, abs=1e-6)


def test_image_too_large_to_be_honest_is_broken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert [broken.file for broken in Predictor.load(folder).predict_folder(tmp_path).broken] == ["bomb.png"]


def test_no_whole_image_gives_an_empty_table(folder: Path, tmp_path: Path) -> None:
    break_image(tmp_path / "cut.png", "cut")
    found = Predictor.load(folder).predict_folder(tmp_path)
    assert (found.table.num_rows, len(found.table.column_names), len(found.broken)) == (0, 11, 1)


def test_scores_do_not_depend_on_the_batch(folder: Path, run: TrainingRun, tmp_path: Path) -> None:
    write_images(pixels_of(val(run))[:5], tmp_path / "images")
    predictor = Predictor.load(folder)
    one, all_at_once = (predictor.predict_folder(tmp_path / "images", batch_size).table for batch_size in (2, 64))
    assert one["file"] == all_at_once["file"]
    for name in predictor.classes:
        np.testing.assert_allclose(one[name].to_numpy(), all_at_once[name].to_numpy(), rtol=1e-5, atol=1e-6)


def test_names_of_classes_never_replace_the_file_names() -> None:
    assert choose_file_column(["cat", "files"]) == "file"
    assert choose_file_column(["cat", "file"]) == "image_file"
    assert choose_file_column(["image_file", "file"]) == "image_image_file"


def test_device_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_gpu, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="no CUDA GPU here"):
        choose_device("cuda")


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does(folder: Path, run: TrainingRun) -> None:
    images = pixels_of(val(run))
    on_gpu = Predictor.load(folder, torch.device("cuda")).logits(images)
    assert on_gpu.device.type == "cpu"
    torch.testing.assert_close(on_gpu, Predictor.load(folder).logits(images), rtol=1e-3, atol=1e-3)


def test_no_folder_and_no_image_are_said(folder: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(folder)
    with pytest.raises(ValueError, match="DIR must be a folder of images, but got DIR=.*absent, which does not exist"):
        predictor.predict_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="which is a file"):
        predictor.predict_folder(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder of images, but got DIR=.*which is empty"):
        predictor.predict_folder(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="which holds only 1 other file. Images end in"):
        predictor.predict_folder(tmp_path / "empty")


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "classes.json"])
def test_folder_that_is_no_model_names_what_it_lacks(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=rf"lacks {missing}"):
        Predictor.load(folder)


def test_a_damaged_file_of_a_model_is_named(folder: Path) -> None:
    dice = random.Random(0)
    for name in ("model.safetensors", "config.json", "classes.json"):
        path, whole = folder / name, (folder / name).read_bytes()
        for kind in [*DAMAGES, FOLDER]:
            damage(path, kind, dice)
            if path.is_file() and path.read_bytes() == whole:
                continue  # nothing to damage, such as a number in the names of classes
            said = ""
            try:
                Predictor.load(folder)
            except ValueError as error:
                said = str(error)
            # Nothing covers the settings themselves: a value may become another valid one.
            assert name in said or (name == "config.json" and not said), kind
            restore(path, whole)
    Predictor.load(folder)


def test_a_model_of_an_earlier_version_has_no_hashes(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    del described["sha256"]
    (folder / "config.json").write_text(json.dumps(described))
    Predictor.load(folder)


def test_a_model_names_no_file_outside_its_folder(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"sha256": {"/dev/zero": "aa"}}))
    Predictor.load(folder)  # would not end otherwise
    (folder / "config.json").write_text(json.dumps(described | {"config": described["config"] | {"data.name": "../x"}}))
    with pytest.raises(ValueError, match=r"config.json is damaged: data.name must be 1 to 100 letters"):
        Predictor.load(folder)
