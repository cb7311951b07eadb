"""Test that a run gets the dataset it names, or a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kit.stores import CLASSES, NAME, make_store, store_config
from training.data.registry import dataset_info, load_split
from training.data.views import IMAGENET_SCALE
from training.errors import ConfigError, DatasetError


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("registry"))


def test_store_gives_classes_hash_and_imagenets_scale(uri: str) -> None:
    info = dataset_info(store_config(uri).data)
    assert info.classes == CLASSES
    assert len(info.data_hash) == 64
    assert info.scale is IMAGENET_SCALE
    assert info.pretext_file is None


def test_pixels_are_left_as_they_are_on_demand(uri: str) -> None:
    scale = dataset_info(store_config(uri).data.model_copy(update={"normalisation": "none"})).scale
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(scale.normalise(pixels).flatten(), torch.tensor([0, 0.2, 1]))


def test_splits_follow_their_seeds_and_are_read_once(uri: str) -> None:
    data = store_config(uri).data
    train, val = load_split(data, "train"), load_split(data, "val")
    assert (len(train), len(val)) == (16, 4)
    assert load_split(data, "train") is train
    drawn = load_split(data.model_copy(update={"draw_seed": 1}), "train")
    assert torch.equal(drawn.images.read(range(16)), train.images.read(range(16)))
    assert not torch.equal(drawn.observed, train.observed)
    split = load_split(data.model_copy(update={"split_seed": 1}), "train")
    assert not torch.equal(split.images.read(range(16)), train.images.read(range(16)))


def test_store_that_was_prepared_again_is_read_again(tmp_path: Path) -> None:
    first = make_store(tmp_path / "first")
    before = load_split(store_config(first).data, "train")
    second = make_store(tmp_path / "second", num_train=30)
    Path(first).rename(tmp_path / "away")
    Path(second).rename(first)
    assert len(load_split(store_config(first).data, "train")) == 24 != len(before)


@pytest.mark.parametrize(
    ("name", "command"), [("voc", "voc --source DIR"), ("birds", "folder --source DIR --name birds")]
)
def test_dataset_that_is_not_prepared_names_the_command(name: str, command: str) -> None:
    config = store_config("x").with_params({"data.name": name, "data.store": None})
    for ask in (lambda: dataset_info(config.data), lambda: load_split(config.data, "val")):
        with pytest.raises(DatasetError, match=f"{name} is not prepared.*orchestrator data prepare {command}$"):
            ask()


def test_no_store_at_the_place(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        dataset_info(store_config(str(tmp_path / "none")).data)


def test_store_of_another_dataset_or_size_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=f"data.store must be a store of voc, but .* is a store of {NAME}") as error:
        dataset_info(store_config(uri, {"data.name": "voc"}).data)
    assert error.value.key == "data.store"
    with pytest.raises(
        ConfigError,
        match=r"data.image_size must be 16, the size in the store .*got data.image_size=448.*--image-size 448",
    ):
        dataset_info(store_config(uri, {"data.image_size": 448}).data)


def test_the_test_split_is_not_to_be_had(uri: str) -> None:
    with pytest.raises(ValueError, match="split must be train or val"):
        load_split(store_config(uri).data, "test")  # type: ignore[arg-type]
