"""Test the names of a store's files, and that nothing else is taken for a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.store import file_names
from training.data.store.file_names import MANIFEST, holds_store, is_manifest, is_ours, labels_name, shard_name


def test_names_of_files() -> None:
    assert labels_name("train") == "train-labels.parquet"
    assert shard_name("test", 3) == "test-00003.arrow"
    assert shard_name("test", 3, originals=True) == "test-00003.originals.arrow"


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "manifest.json.partial", "val-labels.parquet", "train-00000.arrow", "test-123456.done.json"],
)
def test_files_that_a_store_may_delete(name: str) -> None:
    assert is_ours(name)


@pytest.mark.parametrize(
    "name",
    [
        "train-00000-of-00005.arrow",
        "data-00000.arrow",
        "train-0.arrow",
        "labels.parquet",
        "manifest.json.bak",
        "old-train-00000.arrow",
        "train-00000.arrow.partial.partial",
        "writer.lock",
        "README.md",
    ],
)
def test_files_that_a_store_leaves_alone(name: str) -> None:
    assert not is_ours(name)


def test_manifest_is_known_by_its_keys_whatever_its_version() -> None:
    assert is_manifest(json.dumps({"schema_version": 99, "data_hash": "ab", "more": 1}))
    for text in ("", "{", "[]", '{"schema_version": 1}', '{"manifest_version": 3, "name": "extension"}', "[" * 100_000):
        assert not is_manifest(text)


def test_folder_with_a_manifest_alone_is_a_store_only_if_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not holds_store(tmp_path / "nowhere")
    assert not holds_store(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": 1, "data_hash": "ab"}))
    assert holds_store(tmp_path)
    monkeypatch.setattr(file_names, "_LARGEST_MANIFEST_BYTES", 10)
    assert not holds_store(tmp_path)
    (tmp_path / "writer.lock").touch()
    assert holds_store(tmp_path)


def test_folders_with_the_names_of_our_files_are_not_ours(tmp_path: Path) -> None:
    for name in (MANIFEST, "train-00000.arrow", "writer.lock"):
        (tmp_path / name).mkdir()
    assert not holds_store(tmp_path)
