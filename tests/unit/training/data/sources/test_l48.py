"""Test Merlin L48: given positives, negatives by range and checklist, its splits, and images that are not square."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.kit.layouts import L48_SPECIES, make_l48
from tests.kit.stores import make_store, store_config
from training.config.run import TrainConfig
from training.data.loaders import make_train_batches
from training.data.registry import load_split
from training.data.sources.annotations import Annotations
from training.data.sources.l48 import read_l48
from training.data.store.writer import write_store
from training.data.views import UNIT_SCALE
from training.errors import ConfigError, NotThisDatasetError
from training.loop.run import TrainingRun

SIDE = 96


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_l48(tmp_path_factory.mktemp("l48"), val=True)


@pytest.fixture(scope="module")
def store(source: Path) -> str:
    write_store(read_l48(source, images=True), str(source / "store"), image_size=SIDE, keep_originals=True, workers=1)
    return str(source / "store")


def config_of(store: str, changes: dict[str, Any] | None = None) -> TrainConfig:
    flat = {
        "data.name": "l48",
        "data.store": store,
        "data.image_size": SIDE,
        "data.num_workers": 0,
        "data.horizontal_flip": False,
        "data.negatives": "given",
        "model.backbone": "digits/resnet12",
        "model.weights": "none",
        "optim.lr": 1e-3,
        "optim.batch_size": 4,
        "loop.epochs": 1,
    }
    return TrainConfig.from_flat(flat).with_params(changes or {})


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


def test_labels_are_those_of_the_page(source: Path) -> None:
    read = read_l48(source)
    assert read.faults == ()
    assert read.classes == L48_SPECIES
    assert {name: len(phase) for name, phase in read.phases.items()} == {"train": 24, "val": 8, "test": 8}
    train, val = read.phases["train"], read.phases["val"]
    assert train.true is None
    assert train.observed is not None
    assert train.observed.sum() == 8, "one clip of each recording has its target"
    # The first clip: amerob and its neighbour are there, norcar is out of range, houfin not on the checklist.
    assert train.observed[0].tolist() == [True, False, False, False]
    assert train.negatives["range"][0].tolist() == [False, False, False, True]
    assert train.negatives["checklist"][0].tolist() == [False, False, True, True]
    assert (train.negatives["checklist"] | ~train.negatives["range"]).all(), "the checklist excludes more"
    # The last of the recording: nobody annotated it, and the lists hold all the same.
    assert not train.observed[2].any()
    assert np.array_equal(train.negatives["range"][2], train.negatives["range"][0])
    assert val.true is not None
    assert val.true[0].tolist() == [True, True, False, False]
    assert not val.negatives
    recordings = [set(phase.recordings or ()) for phase in read.phases.values()]
    assert recordings[0].isdisjoint(recordings[1])
    assert recordings[1].isdisjoint(recordings[2])
    assert recordings[1] == {"0", "4", "8", "12"}
    assert "left out 4 clips of val that are not fully annotated, as the authors do" in read.notes
    assert (
        "train: 24 clips of 8 recordings, 8 with their positive, 1.0 negatives by range, 2.0 negatives by checklist"
        in (read.notes)
    )


def test_without_the_authors_split_recordings_are_drawn_for_val(tmp_path: Path) -> None:
    read = read_l48(make_l48(tmp_path, images=False))
    assert any("no val_split.npy next to clips.json" in note for note in read.notes)
    val = set(read.phases["val"].recordings or ())
    assert len(val) == 4, "one of the three recordings of each species"
    assert val == set(read_l48(tmp_path).phases["val"].recordings or ())


def test_mistakes_are_named(tmp_path: Path) -> None:
    def change(name: str, number: int, **values: Any) -> list[str]:
        root = make_l48(tmp_path / f"{name}{number}{len(values)}{'-'.join(values)}", images=False)
        records = json.loads((root / name).read_text())
        records[number] = {key: value for key, value in {**records[number], **values}.items() if value is not None}
        (root / name).write_text(json.dumps(records))
        return faults(read_l48(root, images="boxes" in values))

    assert "clips.json: clip 0 is of recording 77, which assets.json lacks" in change("clips.json", 0, asset_id=77)
    assert "clips.json: record 0 lacks file_path" in change("clips.json", 0, file_path=None)
    assert "clips.json: record 0 must have lists in present_species_codes" in change(
        "clips.json", 0, present_species_codes="amerob"
    )
    assert "clips.json: has ids more than once: 1" in change("clips.json", 0, id=1)
    assert "must be train or test, but is 'dev'" in change("assets.json", 0, split="dev")[0]
    assert "has a species that its possible_species_codes lack" in "".join(
        change("assets.json", 0, possible_species_codes=["amerob"])
    ) + "".join(change("assets.json", 1, possible_species_codes=["amerob"]))
    wrong = [{"species_code": "amerob", "status": "active", "bbox": [0.5, 0.1, 0.2, 0.9]}]
    assert "clip 0 must have boxes [xmin, ymin, xmax, ymax] in 0-1" in "".join(change("clips.json", 0, boxes=wrong))
    (tmp_path / "list" / "x").mkdir(parents=True)
    root = make_l48(tmp_path / "list", images=False)
    (root / "clips.json").write_text("{")
    assert faults(read_l48(root))[0].startswith("clips.json:1: is not JSON")
    (root / "taxa.csv").write_text("code\na\n")
    assert "taxa.csv:1: must have a column species_code, but has 'code'" in faults(read_l48(root))
    with pytest.raises(NotThisDatasetError, match="Could not find Merlin L48"):
        read_l48(tmp_path / "list" / "x")


def test_boxes_lie_on_what_they_frame_in_the_square_images_of_the_store(store: str) -> None:
    val = load_split(config_of(store).data, "val")
    assert val.boxes is not None
    pixels = val.images.read([0])[0].int()
    boxes = val.boxes[0][val.boxes[0][:, 0] >= 0].tolist()
    assert len(boxes) == 2, "the ignored sound has none"
    assert boxes[0] == [0, 90 * SIDE // 750, 40 * SIDE // 236, 290 * SIDE // 750, 180 * SIDE // 236] or boxes[0] == (
        pytest.approx([0, 90 * SIDE / 750, 40 * SIDE / 236, 290 * SIDE / 750, 180 * SIDE / 236], abs=1)
    )
    for _, left, top, right, bottom in boxes:
        inside = pixels[:, top + 2 : bottom - 2, left + 2 : right - 2]
        outside = pixels[:, :, : boxes[0][1] - 2]
        assert (inside.float().mean((1, 2)) - outside.float().mean((1, 2))).abs().max() > 40
        assert inside.float().std((1, 2)).max() < 15, "one colour, to the edges"


@pytest.mark.parametrize("order", ["resized", "original"])
def test_views_keep_time_running_forwards(store: str, order: str) -> None:
    config = config_of(store, {"data.augment_order": order})
    data = load_split(config.data, "train")
    batches = make_train_batches(data, UNIT_SCALE, config, True, torch.device("cpu"))
    for epoch in (1, 2):
        for batch in batches.epoch(epoch):
            assert batch.strong is not None
            assert batch.strong.shape == batch.weak.shape == (len(batch.index), 3, SIDE, SIDE)
            plain = data.images.read(batch.index.tolist()).float() / 255
            assert (batch.weak - plain).abs().max() < 0.05  # the original is resized anew


def test_runs_of_three_kinds_of_negatives(store: str) -> None:
    sizes = {}
    for kind in ("none", "range", "given"):
        run = TrainingRun(
            config_of(store, {"data.negatives": kind, "method.name": "ignore", "method.warmup_epochs": 0})
        )
        metrics = run.train_epoch()
        assert all(np.isfinite(value) for value in metrics.values())
        assert {"val/mAP", "train/mask_kept_frac"} <= metrics.keys()
        sizes[kind] = len(run._train)
    assert sizes == {"none": 8, "range": 24, "given": 24}


def test_clips_of_a_recording_are_kept_consistent_and_a_resumed_run_goes_on(store: str, tmp_path: Path) -> None:
    config = config_of(store, {"loop.recording_weight": 1.0, "loop.recording_decay": 0.5, "loop.epochs": 2})
    assert load_split(config.data, "train").recordings is not None
    whole, first, second = (
        TrainingRun(config, storage=None if place is None else tmp_path / place) for place in (None, "a", "a")
    )
    whole.train_epoch()
    expected = whole.train_epoch()
    assert first.train_epoch()["train/loss_recordings"] > 0
    first.save()
    assert second.resume()
    assert second.train_epoch()["train/loss"] == expected["train/loss"]


def test_recordings_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    config = store_config(make_store(tmp_path), {"loop.recording_weight": 1.0})
    with pytest.raises(ConfigError, match="loop.recording_weight needs to know .* which mine does not say"):
        TrainingRun(config)
