"""Test files of CLIP's scores, and that a run gets the rows of its own images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kit.clip_scores import write_scores
from tests.kit.stores import make_store, store_config
from training.config.run import DataConfig
from training.data.registry import load_clip_scores, load_split
from training.data.store.clip_scores import ClipScores, ScoreFile, read_about, scores_name
from training.data.store.reader import open_store
from training.data.store.storage import Storage
from training.errors import ConfigError, StoreError

MODEL = "clip/ViT-B-16"


def random_scores(num: int, num_classes: int) -> ClipScores:
    generator = torch.Generator().manual_seed(num)
    return ClipScores(*(torch.rand(num, num_classes, generator=generator) for _ in range(3)))


def test_a_file_goes_round_and_its_description_is_read_alone(tmp_path: Path) -> None:
    about = {"model": MODEL, "class_names": '["Kühlschrank", "dog"]'}
    written = ScoreFile(("a", "b", "c"), random_scores(3, 2), about)
    storage = Storage(str(tmp_path))
    storage.put("file", written.encode())
    assert read_about(storage, "file") == about
    assert read_about(storage, "another") is None
    found = ScoreFile.decode(storage.read("file"))
    assert (found.ids, found.about) == (written.ids, about)
    for name in ("whole", "tile_max", "tile_min"):
        assert torch.equal(getattr(found.scores, name), getattr(written.scores, name))
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(StoreError, match="Cannot read .*file"):
        read_about(storage, "file")


def test_a_run_gets_the_scores_of_its_own_images_in_its_order(tmp_path: Path) -> None:
    uri = make_store(tmp_path, num_train=20)
    config = store_config(uri).data
    ids, _ = open_store(uri).images("train")
    by_name = {name: row for row, name in enumerate(ids)}
    whole = write_scores(uri).whole
    found, digest = load_clip_scores(config, MODEL)
    train = load_split(config, "train")
    assert len(found) == len(train) < len(ids)
    assert torch.equal(found.whole, whole[[by_name[name] for name in train.ids]])
    write_scores(uri, seed=1)
    assert load_clip_scores(config, MODEL)[1] != digest


def test_scores_that_are_absent_damaged_or_of_other_data_name_the_command(tmp_path: Path) -> None:
    uri = make_store(tmp_path)
    config = store_config(uri).data
    command = "orchestrator data score mine --model clip/ViT-B-16"
    with pytest.raises(StoreError, match=f"No scores of clip/ViT-B-16 .*{command}"):
        load_clip_scores(config, MODEL)
    write_scores(uri, data_hash="0ther")
    with pytest.raises(StoreError, match=f"are of other data than the store's.*{command} --replace"):
        load_clip_scores(config, MODEL)
    (Path(uri) / scores_name(MODEL, "train")).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=f"Cannot read .*{command}"):
        load_clip_scores(config, MODEL)
    with pytest.raises(ConfigError, match="digits has no scores of CLIP"):
        load_clip_scores(DataConfig(), MODEL)


def test_images_of_the_test_set_are_not_handed_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Only promotion opens the test split"):
        open_store(make_store(tmp_path)).images("test")  # type: ignore[arg-type]
