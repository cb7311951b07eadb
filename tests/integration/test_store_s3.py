"""Test a store on object storage: write, continue, refuse a second writer, read through the node's cache."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kit.pictures import make_source
from tests.kit.s3 import BUCKET, S3Server, serve_s3
from training.cache import cache_dir
from training.data.sources.annotations import Annotations
from training.data.store import writer as store_writer
from training.data.store import writer_lock
from training.data.store.manifest import Manifest
from training.data.store.node_cache import cache_key
from training.data.store.reader import open_store
from training.data.store.writer import find_finished, write_store
from training.errors import StoreError

URI = f"s3://{BUCKET}/data/mine"
SEED = 1200


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_writer, "SHARD_IMAGES", 8)
    monkeypatch.setattr(writer_lock, "_SETTLE_S", 0.0)
    with serve_s3() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Annotations:
    return make_source(tmp_path / "source")


def write(source: Annotations, uri: str = URI, **options: Any) -> Manifest:
    return write_store(source, uri, **{"image_size": 16, "workers": 2} | options)


def names(server: S3Server) -> set[str]:
    return {key.removeprefix("data/mine/") for key in server.objects if not key.endswith("/")}


def test_remote_store_is_the_local_one_and_a_second_run_does_nothing(
    server: S3Server, source: Annotations, tmp_path: Path
) -> None:
    local = write(source, str(tmp_path / "store"))
    assert find_finished(source, URI, image_size=16) is None
    assert write(source) == local
    assert names(server) == {path.name for path in (tmp_path / "store").iterdir()}
    assert all(
        (tmp_path / "store" / name).read_bytes() == server.objects[f"data/mine/{name}"] for name in names(server)
    )
    before = dict(server.objects)
    assert find_finished(source, URI, image_size=16) == local
    assert write(source) == local
    assert server.objects == before


def test_images_are_copied_to_the_node_once_and_the_test_set_only_when_asked_for(
    server: S3Server, source: Annotations, tmp_path: Path
) -> None:
    write(source, str(tmp_path / "store"))
    manifest = write(source)
    local, remote = open_store(str(tmp_path / "store")), open_store(URI)
    remote.labels("train")
    assert not [key for key in server.reads if key.endswith(".arrow")]
    for name in ("train", "val"):
        ours, theirs = local.split(name, SEED, SEED), remote.split(name, SEED, SEED)
        assert torch.equal(ours.observed, theirs.observed)
        assert torch.equal(ours.images.read(range(len(ours))), theirs.images.read(range(len(theirs))))
    assert not [key for key in server.reads if "/test-" in key]
    copies = cache_dir() / "stores" / cache_key(manifest)
    assert sorted(path.name for path in (copies / "train").iterdir()) == [
        f"train-{number:05d}.arrow" for number in range(3)
    ]
    server.reads.clear()
    assert len(open_store(URI).split("train", SEED, SEED).images.read([0])) == 1
    assert sorted(server.reads) == ["data/mine/manifest.json", "data/mine/train-labels.parquet"]
    assert len(remote.test_split(SEED).images.read([5])) == 1
    assert [path.name for path in (copies / "test").iterdir()] == ["test-00000.arrow"]
    assert remote.check() == []


def test_access_denied_keeps_what_is_whole_and_is_gone_on_from(
    server: S3Server, source: Annotations, tmp_path: Path
) -> None:
    write(source, str(tmp_path / "store"))
    server.refuse = "train-00002.arrow"
    with pytest.raises(StoreError, match="Cannot write the store s3://.*16 of 26 images are done and kept"):
        write(source)
    assert {"train-00000.done.json", "train-00001.done.json"} <= names(server)
    assert "manifest.json" not in names(server)
    with pytest.raises(StoreError, match="continues where it stopped"):
        open_store(URI)
    server.refuse = None
    told: list[int] = []
    write(source, on_progress=lambda done, total: told.append(done))
    assert told[0] == 16
    assert names(server) == {path.name for path in (tmp_path / "store").iterdir()}


def test_second_writer_is_refused_while_the_first_beats(server: S3Server, source: Annotations) -> None:
    key = "data/mine/writer.lock"
    owner = {"host": "node7", "pid": 4711, "since": "12:00", "token": "x", "beat": time.time()}
    server.objects[key] = json.dumps(owner).encode()
    with pytest.raises(StoreError, match="process 4711 on node7 since 12:00"):
        write(source)
    assert json.loads(server.objects[key]) == owner
    # One that stopped beating, or whose process here has died, is dead.
    server.objects[key] = json.dumps(owner | {"beat": time.time() - writer_lock.STALE_S - 1}).encode()
    write(source)
    assert key not in server.objects
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    # The last pid is alive, but it is that of a later process.
    for pid in (ended.pid, os.getpid()):
        server.objects.pop("data/mine/manifest.json")
        here = {"host": socket.gethostname(), "pid": pid, "pid_started": 1.5}
        server.objects[key] = json.dumps(owner | here).encode()
        write(source)


def test_writer_that_was_taken_over_stops(
    server: S3Server, source: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_lock, "_BEAT_S", 0.0)
    other = {"host": "node8", "pid": 1, "since": "13:00", "token": "y", "beat": time.time()}

    def take_over(done: int, total: int) -> None:
        if done == 8:
            server.objects["data/mine/writer.lock"] = json.dumps(other).encode()

    with pytest.raises(StoreError, match="process 1 on node8"):
        write(source, on_progress=take_over)
    assert json.loads(server.objects["data/mine/writer.lock"]) == other
    assert "manifest.json" not in names(server)


def test_bucket_that_is_not_there_is_said(server: S3Server, source: Annotations) -> None:
    with pytest.raises(StoreError, match="s3://nowhere/mine"):
        write(source, "s3://nowhere/mine")
    with pytest.raises(StoreError, match="s3://nowhere/mine"):
        open_store("s3://nowhere/mine")
