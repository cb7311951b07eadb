"""Test digit scenes: counts, boxes, disjoint raw material, seeds and files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.kit.scenes import pixels_of, tiny_config
from training.cache import cache_dir
from training.data import digits
from training.data.digits import CLASSES, DigitsSpec, make_pretext_images, make_scenes, read_split
from training.data.registry import dataset_info, digits_place, digits_spec, load_split
from training.errors import ConfigError, DatasetError
from training.preparation import is_prepared

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def spec() -> DigitsSpec:
    """Return the spec of enough scenes for counting."""
    return DigitsSpec(scene_seed=5, num_train=300, num_val=300, num_test=20)


def test_shapes_types_and_counts(spec: DigitsSpec) -> None:
    for split, count in zip(SPLITS, (300, 300, 20), strict=True):
        scenes = make_scenes(spec, split)
        assert scenes["images"].shape == (count, 3, 40, 40)
        assert scenes["images"].dtype == torch.uint8
        assert scenes["true"].shape == (count, 10)
        assert scenes["boxes"].shape == (count, 4, 5)
        assert scenes["boxes"].dtype == torch.int16


def test_one_to_four_classes_at_their_frequencies(spec: DigitsSpec) -> None:
    counts = torch.cat([make_scenes(spec, split)["true"].sum(1) for split in ("train", "val")])
    shares = [float((counts == number).float().mean()) for number in (1, 2, 3, 4)]
    np.testing.assert_allclose(shares, [0.15, 0.35, 0.30, 0.20], atol=0.07)


def test_partners_come_together(spec: DigitsSpec) -> None:
    true = torch.cat([make_scenes(spec, split)["true"] for split in ("train", "val")]).float()
    together = true.T @ true
    partners = sum(float(together[c, (c + step) % 10]) for c in range(10) for step in (1, 5))
    others = sum(float(together[c, (c + step) % 10]) for c in range(10) for step in (3, 7))
    assert partners > 2 * others


def test_boxes_are_the_true_labels_lie_inside_and_do_not_overlap(spec: DigitsSpec) -> None:
    scenes = make_scenes(spec, "train")
    for true, boxes in zip(scenes["true"], scenes["boxes"], strict=True):
        there = boxes[boxes[:, 0] >= 0]
        assert sorted(there[:, 0].tolist()) == true.nonzero()[:, 0].tolist()
        assert (boxes[len(there) :] == -1).all(), "padding comes last"
        covered = torch.zeros(40, 40, dtype=torch.int)
        for _, left, top, right, bottom in there.tolist():
            assert right - left == bottom - top
            assert right - left in (12, 14, 16)
            assert left >= 0
            assert top >= 0
            assert right <= 40
            assert bottom <= 40
            covered[top:bottom, left:right] += 1
        assert int(covered.max()) == 1


def test_boxes_hold_the_bright_pixels(spec: DigitsSpec) -> None:
    scenes = make_scenes(spec, "train")
    inside, outside = [], []
    for image, boxes in zip(scenes["images"], scenes["boxes"], strict=True):
        mask = torch.zeros(40, 40, dtype=torch.bool)
        for label, left, top, right, bottom in boxes.tolist():
            if label >= 0:
                mask[top:bottom, left:right] = True
        brightness = image.float().mean(0)
        inside.append(float(brightness[mask].mean()))
        outside.append(float(brightness[~mask].mean()))
    assert np.mean(inside) > np.mean(outside) + 20


def test_splits_share_no_digit_and_no_background() -> None:
    raw: list[set[bytes]] = []
    for split in SPLITS:
        sources = digits._load_raw_material(5, split)
        raw.append({sized[16].tobytes() for several in sources.digits.values() for sized in several})
    assert sum(len(split) for split in raw) > 1700, "all but the few that scikit-learn has twice"
    assert not raw[0] & raw[1] or len(raw[0] & raw[1]) < 3
    assert not raw[0] & raw[2] or len(raw[0] & raw[2]) < 3
    photos = digits._load_photos()
    for place, photo in enumerate(photos):
        strips = [digits._load_raw_material(5, split).strips[place] for split in SPLITS]
        assert np.array_equal(np.concatenate(strips, axis=2), photo), "the strips tile the photo from left to right"


def test_scenes_are_a_function_of_the_seed_and_seeds_differ(spec: DigitsSpec) -> None:
    def pixels(spec: DigitsSpec, split: str) -> NDArray[np.uint8]:
        return make_scenes(spec, split)["images"].numpy()

    small = replace(spec, num_train=12, num_val=12)
    first = pixels(small, "train")
    assert np.array_equal(pixels(small, "train"), first)
    assert not np.array_equal(pixels(replace(small, scene_seed=6), "train"), first)
    assert not np.array_equal(pixels(small, "val"), first)
    assert small.key != replace(small, scene_seed=6).key != spec.key


def test_more_scenes_begin_with_the_same_ones(spec: DigitsSpec) -> None:
    few, many = (make_scenes(replace(spec, num_train=count), "train")["images"] for count in (10, 20))
    assert torch.equal(few, many[:10])


def test_pretext_images_hold_one_digit_of_every_class(spec: DigitsSpec) -> None:
    images, classes = make_pretext_images(spec)
    assert images.shape == (digits.PRETEXT_IMAGES, 3, 40, 40)
    assert sorted(set(classes.tolist())) == list(range(10))


@pytest.mark.usefixtures("tiny_scenes")
class TestPrepared:
    def test_each_split_lies_in_a_file_of_its_own(self) -> None:
        folder = digits_place(tiny_config().data)
        assert sorted(path.name for path in folder.iterdir()) == [
            "manifest.json",
            "test.safetensors",
            "train.safetensors",
            "trunk.safetensors",
            "val.safetensors",
        ]
        assert is_prepared(tiny_config().data)
        assert not list(folder.parent.glob(".making-*"))

    def test_splits_are_the_scenes_of_their_seed(self) -> None:
        config = tiny_config().data
        test = read_split(digits_place(config), "test", config.draw_seed)
        for split in (load_split(config, "train"), load_split(config, "val"), test):
            scenes = make_scenes(digits_spec(config), split.name)
            assert torch.equal(pixels_of(split), scenes["images"])
            assert split.true is not None
            assert torch.equal(split.true, scenes["true"])
            assert split.boxes is not None
            assert torch.equal(split.boxes, scenes["boxes"])
            assert split.observed.sum(1).tolist() == [1] * len(split)
            assert not (split.observed & ~split.true).any()
            assert split.classes == CLASSES

    def test_draw_seed_changes_observed_labels_alone(self) -> None:
        config = tiny_config().data
        drawn = [load_split(config.model_copy(update={"draw_seed": seed}), "train") for seed in (1200, 1201)]
        assert torch.equal(pixels_of(drawn[0]), pixels_of(drawn[1]))
        assert not torch.equal(drawn[0].observed, drawn[1].observed)

    def test_mean_and_deviation_are_those_of_the_training_images(self) -> None:
        config = tiny_config().data
        pixels = pixels_of(load_split(config, "train")).double() / 255
        scale = dataset_info(config).scale
        torch.testing.assert_close(scale.mean.double(), pixels.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scale.std.double(), pixels.std((0, 2, 3)), rtol=1e-4, atol=1e-5)

    def test_the_test_split_has_a_door_of_its_own(self) -> None:
        with pytest.raises(ValueError, match="split must be train or val, but got split=test"):
            load_split(tiny_config().data, "test")  # type: ignore[arg-type]

    @pytest.mark.parametrize("damage", ["absent", "cut", "another"])
    def test_file_that_is_not_what_the_manifest_says(self, tmp_path: Path, damage: str) -> None:
        folder = tmp_path / "scenes"
        shutil.copytree(digits_place(tiny_config().data), folder)
        path = folder / "val.safetensors"
        if damage == "absent":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            scenes = load_file(path)
            scenes["true"][0] = ~scenes["true"][0]
            save_file(scenes, path)
        with pytest.raises(DatasetError, match=r"The digit scenes are damaged: .*val.safetensors does not match"):
            read_split(folder, "val", 1200)
        assert len(read_split(folder, "train", 1200)) == 64

    @pytest.mark.parametrize("damage", [b"", b"{}", b'{"splits": {}', b"null"])
    def test_manifest_that_is_not_whole(self, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(damage)
        with pytest.raises(DatasetError, match=r"manifest.json is damaged"):
            read_split(tmp_path, "val", 1200)

    def test_trunk_that_is_not_what_the_manifest_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(cache_dir(), tmp_path / "orchestrator")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        trunk = dataset_info(tiny_config().data).pretext_file
        assert trunk is not None
        trunk.write_bytes(trunk.read_bytes()[:-1])
        with pytest.raises(DatasetError, match=r"The digit scenes are damaged: .*trunk.safetensors does not match"):
            dataset_info(tiny_config().data)

    def test_data_hash_is_over_all_splits(self) -> None:
        info = dataset_info(tiny_config().data)
        manifest = json.loads((digits_place(tiny_config().data) / "manifest.json").read_text())
        assert sorted(manifest["splits"]) == sorted(SPLITS)
        assert len(set(manifest["splits"].values())) == 3
        assert manifest["data_hash"] == info.data_hash


def test_scenes_that_are_not_prepared_say_what_prepares_them() -> None:
    config = tiny_config({"data.scene_seed": 987654}).data
    assert not is_prepared(config)
    with pytest.raises(DatasetError, match="The digit scenes are not prepared"):
        load_split(config, "train")


def test_another_image_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.image_size must be 40 for digits, but got data.image_size=64"):
        dataset_info(tiny_config({"data.image_size": 64}).data)
