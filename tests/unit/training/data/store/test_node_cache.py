"""Test that a remote store is copied once per node, completely or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.cache import cache_dir
from training.data.store import node_cache
from training.data.store.manifest import Manifest, StoreFile
from training.data.store.node_cache import cache_key, local_copy
from training.data.store.storage import Storage
from training.errors import StoreError

from .test_manifest import WHOLE


class Remote(Storage):
    """A folder that counts the reads of its files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.read_names: list[str] = []
        self.die_at: str | None = None

    def chunks(self, name: str) -> Iterator[bytes]:
        self.read_names.append(name)
        if name == self.die_at:
            raise KeyboardInterrupt
        yield from super().chunks(name)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "remote"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(name.encode() * 100)
    return Remote(folder)


def manifest_of(remote: Remote) -> Manifest:
    return replace(WHOLE, files={name: StoreFile(size, remote.sha256(name)) for name, size in remote.sizes().items()})


def test_copied_once_and_only_what_was_asked_for(remote: Remote) -> None:
    manifest = manifest_of(remote)
    remote.read_names.clear()
    folder = local_copy(remote, manifest, "train", ["a", "b"])
    assert folder == cache_dir() / "stores" / cache_key(manifest) / "train"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"a" * 100, "b": b"b" * 100}
    assert local_copy(remote, manifest, "train", ["a", "b"]) == folder
    assert sorted(remote.read_names) == ["a", "b"]


def test_many_at_once_copy_once(remote: Remote) -> None:
    manifest = manifest_of(remote)
    remote.read_names.clear()
    threads = [threading.Thread(target=local_copy, args=(remote, manifest, "train", ["a", "b", "c"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(remote.read_names) == ["a", "b", "c"]


def test_stopped_copy_is_no_copy_and_is_gone_on_from(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "_PARALLEL", 1)
    manifest = manifest_of(remote)
    remote.die_at = "c"
    with pytest.raises(KeyboardInterrupt):
        local_copy(remote, manifest, "train", ["a", "b", "c"])
    assert not (cache_dir() / "stores" / cache_key(manifest) / "train").exists()
    remote.die_at = None
    remote.read_names.clear()
    assert len(list(local_copy(remote, manifest, "train", ["a", "b", "c"]).iterdir())) == 3
    assert remote.read_names == ["c"]


def test_other_content_is_refused(remote: Remote) -> None:
    manifest = manifest_of(remote)
    assert remote.folder is not None
    (remote.folder / "b").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="b has changed since"):
        local_copy(remote, manifest, "train", ["a", "b"])
    assert not (cache_dir() / "stores" / cache_key(manifest) / "train").exists()


def test_full_disk_is_said_and_not_left_full(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = manifest_of(remote)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device.*XDG_CACHE_HOME"):
            local_copy(remote, manifest, "train", ["a"])
    assert [path.name for path in (cache_dir() / "stores" / cache_key(manifest)).iterdir()] == [".train.lock"]
    local_copy(remote, manifest, "train", ["a"])


def test_stores_of_the_same_data_in_other_bytes_lie_apart(remote: Remote) -> None:
    manifest = manifest_of(remote)
    more = replace(manifest, files=manifest.files | {"train-00000.originals.arrow": StoreFile(1, "ff")})
    assert cache_key(more) != cache_key(manifest)
    assert cache_key(replace(manifest, name="other")) == cache_key(manifest)
