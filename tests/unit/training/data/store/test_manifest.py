"""Test that manifests round-trip through JSON, and the messages for other versions, damage and absence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.data.sources.annotations import Fault
from training.data.store.file_names import MANIFEST
from training.data.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    StoreFile,
    read_manifest,
)
from training.errors import ConfigError, StoreError

WHOLE = Manifest(
    name="voc",
    layout="VOC 2012",
    classes=("cat", "dog"),
    parts=(),
    image_size=448,
    encoding="jpeg",
    keeps_originals=False,
    shard_images=512,
    counts={"train": 3, "test": 1},
    has_true={"train": True, "test": True},
    data_hash="ab" * 32,
    source_hash="cd" * 32,
    preprocessing={"image_size": 448},
    label_files={"x.txt": "ef" * 32},
    left_out=(Fault("a.jpg", "is empty", id="a"), Fault("list.txt", "is odd", line=3)),
    num_unlabelled={"train": 2},
    files={"train-00000.arrow": StoreFile(10, "aa"), "test-labels.parquet": StoreFile(5, "bb")},
)


def write(folder: Path, text: str) -> str:
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return str(folder)


def test_round_trip(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, WHOLE.to_json())) == WHOLE
    assert WHOLE.num_bytes == 15


def test_other_schema_version_names_both_and_the_command(tmp_path: Path) -> None:
    uri = write(tmp_path, replace(WHOLE, schema_version=SCHEMA_VERSION + 1).to_json())
    with pytest.raises(
        StoreError,
        match=rf"version {SCHEMA_VERSION + 1}, and this program reads version {SCHEMA_VERSION}.*data prepare",
    ):
        read_manifest(uri)


@pytest.mark.parametrize("text", ["", "[1]", "{}", WHOLE.to_json()[:300], '{"schema_version": 1}'])
def test_half_a_manifest_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(StoreError, match="orchestrator data prepare"):
        read_manifest(write(tmp_path, text))


def test_manifest_of_something_else_is_never_to_be_deleted(tmp_path: Path) -> None:
    uri = write(tmp_path, '{"manifest_version": 3, "name": "a browser extension"}')
    with pytest.raises(StoreError, match=r"holds no store.*into another folder.*--out OTHER") as refused:
        read_manifest(uri)
    assert "elete" not in str(refused.value)
    (tmp_path / "train-00000.arrow").touch()
    with pytest.raises(StoreError, match=r"manifest\.json is damaged. Delete .*manifest\.json and prepare"):
        read_manifest(uri)


def test_value_out_of_range_is_refused(tmp_path: Path) -> None:
    raw = json.loads(WHOLE.to_json()) | {"encoding": "png"}
    with pytest.raises(StoreError, match="encoding=png"):
        read_manifest(write(tmp_path, json.dumps(raw)))


def test_no_store_and_unfinished_store_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No store at .*orchestrator data prepare"):
        read_manifest(str(tmp_path / "nothing"))
    (tmp_path / "train-00000.done.json").write_text("{}")
    with pytest.raises(StoreError, match="continues where it stopped"):
        read_manifest(str(tmp_path))


def test_unknown_scheme_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="s3://bucket/path, but got ftp://"):
        read_manifest("ftp://host/store")


def test_no_name_in_a_manifest_leads_out_of_a_folder(tmp_path: Path) -> None:
    plain = json.loads(WHOLE.to_json())
    for bad in ("/abs", "..", "../../x", "a/../../b", "", ".", "a\0b", "x" * 5000, "C:\\x", ".hidden", None, 3):
        for key in ("name", "data_hash", "source_hash"):
            with pytest.raises(StoreError, match="is damaged"):
                read_manifest(write(tmp_path, json.dumps(plain | {key: bad})))
        for name in (f"train-{bad}.arrow", str(bad), f"train-00000.arrow/{bad}"):
            with pytest.raises(StoreError, match=r"is damaged.*not a file of a store"):
                read_manifest(write(tmp_path, json.dumps(plain | {"files": {name: {"bytes": 1, "sha256": "aa"}}})))
