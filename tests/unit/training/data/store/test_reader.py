"""Test that a store gives the protocol's splits and draws, keeps the test set closed, and reports damage."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.kit.pictures import CLASSES, make_source
from training.cache import cache_dir
from training.data.protocol import draw_single_positives, split_train_val
from training.data.sources.annotations import Annotations, Fault
from training.data.split import OriginalImages
from training.data.store import reader as store
from training.data.store import shards
from training.data.store import writer as store_writer
from training.data.store.images import Preprocessing, prepare_image
from training.data.store.reader import Store, StoreImages, open_store
from training.data.store.writer import write_store
from training.errors import StoreError

SEED = 1200


@pytest.fixture(autouse=True)
def _own_cache_and_small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_writer, "SHARD_IMAGES", 8)


@pytest.fixture
def source(tmp_path: Path) -> Annotations:
    return make_source(tmp_path / "source")


def prepared(source: Annotations, folder: Path, **options: Any) -> Store:
    write_store(source, str(folder), **{"image_size": 16, "workers": 1} | options)
    return open_store(str(folder))


@pytest.mark.parametrize("name", ["train", "val"])
def test_splits_and_draws_are_the_protocols(source: Annotations, tmp_path: Path, name: Any) -> None:
    data = prepared(source, tmp_path / "store").split(name, SEED, 7)
    rows = split_train_val(20, SEED)[0 if name == "train" else 1]
    true = source.phases["train"].true
    assert true is not None
    assert data.true is not None
    assert np.array_equal(data.true.numpy(), true[rows])
    assert np.array_equal(data.observed.numpy(), draw_single_positives(true, 7)[rows])
    assert (data.name, data.classes, len(data)) == (name, CLASSES, len(rows))
    assert data.observed.dtype == data.true.dtype == torch.bool


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_every_row_is_its_own_picture(source: Annotations, tmp_path: Path, encoding: Any) -> None:
    opened = prepared(source, tmp_path / "store", encoding=encoding)
    for data, phase, rows in [
        (opened.split("train", SEED, SEED), "train", split_train_val(20, SEED)[0]),
        (opened.split("val", SEED, SEED), "train", split_train_val(20, SEED)[1]),
        (opened.test_split(SEED), "test", np.arange(6)),
    ]:
        for row, original in enumerate(rows):
            payload = (source.root / source.phases[phase].files[original]).read_bytes()
            encoded = prepare_image(payload, Preprocessing(16, encoding))[0]
            expected = decode(encoded, encoding)
            assert np.array_equal(data.images.read([row])[0].permute(1, 2, 0).numpy(), expected)


def decode(encoded: bytes, encoding: str) -> Any:
    if encoding == "raw":
        return np.frombuffer(encoded, np.uint8).reshape(16, 16, 3)
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_images_can_be_read_in_any_order_twice_and_elsewhere(source: Annotations, tmp_path: Path) -> None:
    images = prepared(source, tmp_path / "store").split("train", SEED, SEED).images
    batch = images.read([5, 0, 5, 15])
    assert batch.shape == (4, 3, 16, 16)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(pickle.loads(pickle.dumps(images)).read([5]), batch[:1])
    assert images.read([]).shape == (0, 3, 16, 16)


def test_boxes_and_points_are_in_the_stores_pixels(source: Annotations, tmp_path: Path) -> None:
    opened = prepared(source, tmp_path / "store")
    data = opened.split("train", SEED, SEED)
    assert data.true is not None
    assert data.boxes is not None
    assert data.boxes.dtype == torch.int16
    assert data.boxes.shape == (16, int(data.true.sum(1).max()), 5)
    for boxes, true in zip(data.boxes, data.true, strict=True):
        found = boxes[boxes[:, 0] >= 0]
        assert found[:, 0].tolist() == torch.nonzero(true).flatten().tolist()
        assert (found[:, 1:] == torch.tensor([2, 2, 8, 8])).all()  # 4, 3, 20, 15 of 40 x 30 px
    points = opened.points("train")
    assert points is not None
    assert len(points) == 20
    assert points[0] == pytest.approx(np.array([[0, 3.2, 3.2]]))


def test_without_boxes_there_are_none(tmp_path: Path) -> None:
    opened = prepared(make_source(tmp_path / "source", boxes=False), tmp_path / "store")
    assert opened.split("val", SEED, SEED).boxes is None
    assert opened.points("train") is None


def test_left_out_images_change_no_other_draw_and_no_other_picture(source: Annotations, tmp_path: Path) -> None:
    whole = prepared(source, tmp_path / "whole").split("train", SEED, SEED)
    rows = split_train_val(20, SEED)[0]
    train = source.phases["train"]
    bad = [int(rows[1]), int(rows[9])]
    (source.root / train.files[bad[0]]).write_bytes(b"")
    known = Fault("labels.csv", "is at fault", id=train.ids[bad[1]])
    opened = prepared(replace(source, faults=(known,)), tmp_path / "store", skip_bad=True)
    data = opened.split("train", SEED, SEED)
    left = [row for row in range(len(rows)) if row not in (1, 9)]
    assert torch.equal(data.observed, whole.observed[left])
    assert torch.equal(data.images.read(range(len(data))), whole.images.read(left))
    points = opened.points("train")
    assert points is not None
    assert len(points) == 18
    assert opened.check() == []


def test_given_val_is_used_whole(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", num_val=5)
    opened = prepared(source, tmp_path / "store")
    train, val = opened.split("train", SEED, SEED), opened.split("val", SEED, SEED)
    assert (len(train), len(val)) == (20, 5)
    true = source.phases["val"].true
    assert true is not None
    assert np.array_equal(val.observed.numpy(), draw_single_positives(true, SEED))


def test_observed_labels_of_the_source_are_taken_as_they_are(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", has_true=False)
    opened = prepared(source, tmp_path / "store")
    data = opened.split("val", SEED, 1)
    given = source.phases["train"].observed
    assert given is not None
    assert data.true is None
    assert np.array_equal(data.observed.numpy(), given[split_train_val(20, SEED)[1]])
    assert not cache_dir().exists()
    both = prepared(make_source(tmp_path / "both", has_observed=True), tmp_path / "store2").split("val", SEED, 1)
    assert both.true is not None
    assert torch.equal(both.observed, data.observed)


def test_store_without_a_test_set(tmp_path: Path) -> None:
    opened = prepared(make_source(tmp_path / "source", num_test=0), tmp_path / "store")
    with pytest.raises(StoreError, match="The store .* has train, but no test set"):
        opened.test_split(SEED)


def test_split_never_opens_the_test_set(source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(source, tmp_path / "store")
    for path in (tmp_path / "store").glob("test-*"):
        path.write_bytes(b"x" * path.stat().st_size)
    opened = open_store(str(tmp_path / "store"))
    for name in ("train", "val"):
        data = opened.split(name, SEED, SEED)
        data.images.read(range(len(data)))
    with pytest.raises(StoreError, match="has changed since"):
        opened.test_split(SEED)
    with pytest.raises(ValueError, match="train or val, but got split=test"):
        opened.split("test", SEED, SEED)  # type: ignore[arg-type]


def test_labels_are_read_without_any_image(
    source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = prepared(source, tmp_path / "store")
    monkeypatch.setattr(pa, "memory_map", lambda *_: pytest.fail("an image shard was opened"))
    opened.split("train", SEED, SEED)
    assert opened.labels("train").ids == source.phases["train"].ids


def test_originals_are_the_files_as_they_were(source: Annotations, tmp_path: Path) -> None:
    plain = prepared(source, tmp_path / "plain").split("val", SEED, SEED).images
    assert not isinstance(plain, OriginalImages)
    images = prepared(source, tmp_path / "store", keep_originals=True).split("val", SEED, SEED).images
    assert isinstance(images, OriginalImages)
    file = source.phases["train"].files[split_train_val(20, SEED)[1][3]]
    with Image.open(source.root / file) as expected:
        assert np.array_equal(np.asarray(images.read_original(3)), np.asarray(expected))


def test_draw_is_cached_by_data_hash_and_a_broken_cache_is_drawn_again(
    source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = prepared(source, tmp_path / "store")
    first = opened.observed("train", 3)
    (file,) = (cache_dir() / "draws" / opened.manifest.data_hash).iterdir()
    assert file.name == "train-3.npy"
    with monkeypatch.context() as patch:
        patch.setattr(store, "draw_single_positives", lambda *_: pytest.fail("drawn again"))
        assert np.array_equal(open_store(opened.uri).observed("train", 3), first)
    for broken in (b"", file.read_bytes()[:-5], file.read_bytes()[:-9] + bytes(9)):
        file.write_bytes(broken)
        assert np.array_equal(opened.observed("train", 3), first)
    (tmp_path / "cache2").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache2"))
    assert np.array_equal(opened.observed("train", 3), first)


@pytest.mark.parametrize("name", ["train-00001.arrow", "train-labels.parquet"])
def test_missing_or_short_file_is_said_on_opening(source: Annotations, tmp_path: Path, name: str) -> None:
    prepared(source, tmp_path / "store")
    path = tmp_path / "store" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{name} has \d+ bytes instead of \d+.*orchestrator data prepare"):
        open_store(str(tmp_path / "store"))
    path.unlink()
    with pytest.raises(StoreError, match=f"{name} is missing"):
        open_store(str(tmp_path / "store"))


def test_flipped_label_is_refused(source: Annotations, tmp_path: Path) -> None:
    opened = prepared(source, tmp_path / "store")
    path = tmp_path / "store" / "train-labels.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"train-labels\.parquet has changed since"):
        opened.split("train", SEED, SEED)


def test_check_reads_every_file(source: Annotations, tmp_path: Path) -> None:
    opened = prepared(source, tmp_path / "store")
    assert opened.check() == []
    path = tmp_path / "store" / "test-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (tmp_path / "store" / "train-00002.arrow").unlink()
    assert opened.check() == ["train-00002.arrow is missing", "test-00000.arrow has changed since it was written"]
    manifest = replace(
        opened.manifest, data_hash="0" * 64, files={k: v for k, v in opened.manifest.files.items() if "labels" in k}
    )
    assert Store(opened.uri, manifest).check() == ["the manifest's data hash does not fit the labels"]


def test_damaged_shard_is_said_when_it_is_read(source: Annotations, tmp_path: Path) -> None:
    images = prepared(source, tmp_path / "store").split("train", SEED, SEED).images
    path = tmp_path / "store" / "train-00000.arrow"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(StoreError, match=r"train-00000\.arrow cannot be used"):
        images.read(range(len(images)))


def test_many_shards_need_few_open_files(source: Annotations, tmp_path: Path) -> None:
    assert shards._OPEN_FILES < 512
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("no /proc")
    images = prepared(source, tmp_path / "store").split("train", SEED, SEED).images
    images.read(range(len(images)))
    shards._open.cache_clear()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_store_that_was_made_again_at_the_same_place_is_read_again(source: Annotations, tmp_path: Path) -> None:
    first = prepared(source, tmp_path / "store").split("train", SEED, SEED).images.read([0])
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    other = make_source(tmp_path / "other", num_train=19)
    images = prepared(other, tmp_path / "store").split("train", SEED, SEED).images
    assert isinstance(images, StoreImages)
    assert not torch.equal(images.read([14]), first)


def test_phase_without_any_image(source: Annotations, tmp_path: Path) -> None:
    train = source.phases["train"]
    assert train.true is not None
    empty = replace(train, ids=(), files=(), true=train.true[:0], boxes=(), points=())
    opened = prepared(replace(source, phases=source.phases | {"val": empty}), tmp_path / "store")
    data = opened.split("val", SEED, SEED)
    assert data.true is not None
    assert (len(data.images), data.true.shape, data.observed.shape) == (0, (0, 3), (0, 3))
    assert data.images.read([]).shape == (0, 3, 16, 16)
    assert opened.points("val") == []
    assert opened.check() == []


def test_boxes_and_parts_of_a_turned_original_count_the_files_own_pixels(source: Annotations, tmp_path: Path) -> None:
    phase = source.phases["train"]
    # White where the first box is, in a file of 40 x 30 px that EXIF says lies on its side.
    stored = Image.new("RGB", (40, 30))
    stored.paste((255, 255, 255), (4, 3, 20, 15))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(source.root / phase.files[1], quality=95, exif=exif)
    prepared_store = prepared(source, tmp_path / "store", image_size=120)
    row = split_train_val(20, SEED)[0].tolist().index(1)
    data = prepared_store.split("train", SEED, SEED)
    white = data.images.read([row])[0].float().mean(0) > 128
    assert data.boxes is not None
    left, top, right, bottom = data.boxes[row][0, 1:].tolist()
    inside = white[top:bottom, left:right]
    assert inside.float().mean() > 0.95
    assert white.sum() < 1.1 * inside.numel()
    points = prepared_store.points("train")
    assert points is not None
    x, y = points[1][0, 1:].tolist()
    assert white[int(y), int(x)]
