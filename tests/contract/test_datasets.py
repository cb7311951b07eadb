"""Test what every dataset must give a run, however it is stored."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.kit.scenes import pixels_of, prepare_tiny, tiny_config
from tests.kit.stores import make_store, store_config
from training.config.run import DataConfig
from training.data.registry import dataset_info, load_split
from training.data.split import OriginalImages, SplitData
from training.models.registry import build_model


def _digits(folder: Path) -> DataConfig:
    prepare_tiny()
    return tiny_config().data


DATASETS: dict[str, Callable[[Path], DataConfig]] = {
    "digits": _digits,
    "raw store": lambda folder: store_config(make_store(folder)).data,
    "JPEG store": lambda folder: store_config(make_store(folder, encoding="jpeg")).data,
    "store with originals": lambda folder: store_config(make_store(folder, keep_originals=True)).data,
    "observed-only store": lambda folder: store_config(make_store(folder, observed_only=True)).data,
}


@pytest.fixture(scope="module", params=DATASETS)
def config(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _isolated_environment: None
) -> DataConfig:
    return DATASETS[request.param](tmp_path_factory.mktemp("dataset"))


@pytest.fixture(params=["train", "val"])
def split(request: pytest.FixtureRequest, config: DataConfig) -> SplitData:
    return load_split(config, request.param)


class TestDataset:
    def test_info_names_what_a_run_needs(self, config: DataConfig) -> None:
        info = dataset_info(config)
        assert info.data_hash == dataset_info(config).data_hash
        assert len(info.data_hash) == 64
        assert len(set(info.classes)) == len(info.classes) > 1
        assert info.scale.mean.shape == info.scale.std.shape == (3,)
        assert ((info.scale.mean > 0) & (info.scale.mean < 1) & (info.scale.std > 0)).all()

    def test_labels_are_bool_and_observed_ones_are_true(self, split: SplitData, config: DataConfig) -> None:
        shape = (len(split), len(split.classes))
        assert split.classes == dataset_info(config).classes
        assert len(split) == len(split.images) > 0
        assert (split.observed.dtype, split.observed.shape) == (torch.bool, shape)
        assert (split.observed.sum(1) <= 1).all()
        if split.true is not None:
            assert (split.true.dtype, split.true.shape) == (torch.bool, shape)
            assert not (split.observed & ~split.true).any()
            assert torch.equal(split.observed.any(1), split.true.any(1))

    def test_images_are_uint8_squares_read_by_row_in_any_order(self, split: SplitData, config: DataConfig) -> None:
        size = config.image_size
        pixels = pixels_of(split)
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (len(split), 3, size, size))
        rows = [3, 0, 3, len(split) - 1]
        assert torch.equal(split.images.read(rows), pixels[rows])
        assert split.images.read([]).shape == (0, 3, size, size)
        assert not torch.equal(pixels[0], pixels[1])

    def test_what_is_read_may_be_changed(self, split: SplitData) -> None:
        before = split.images.read([1])
        split.images.read([1]).zero_()
        assert torch.equal(split.images.read([1]), before)

    def test_images_can_be_read_in_another_process(self, split: SplitData) -> None:
        assert torch.equal(pickle.loads(pickle.dumps(split.images)).read([2]), split.images.read([2]))

    def test_splits_share_no_image(self, config: DataConfig) -> None:
        train, val = (
            {image.numpy().tobytes() for image in pixels_of(load_split(config, name))} for name in ("train", "val")
        )
        assert train
        assert not train & val

    def test_boxes_lie_in_the_image_and_are_of_its_classes(self, split: SplitData, config: DataConfig) -> None:
        if split.boxes is None:
            return
        assert split.boxes.dtype == torch.int16
        assert split.boxes.shape[::2] == (len(split), 5)
        real = split.boxes[split.boxes[..., 0] >= 0]
        assert ((real[:, 1:] >= 0) & (real[:, 1:] <= config.image_size)).all()
        assert (real[:, 1:3] < real[:, 3:]).all()

    def test_originals_are_rgb_where_they_are_kept(self, split: SplitData) -> None:
        if isinstance(split.images, OriginalImages):
            assert split.images.read_original(0).mode == "RGB"

    def test_a_model_takes_the_images(self, split: SplitData, config: DataConfig) -> None:
        model, _ = build_model(tiny_config({"model.weights": "none"}).model, len(split.classes), torch.device("cpu"))
        with torch.no_grad():
            logits = model.eval()(dataset_info(config).scale.normalise(split.images.read([0, 1]))).logits
        assert logits.shape == (2, len(split.classes))
        assert logits.isfinite().all()
