"""Copies of remote stores on a node's own disk: once per node, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from training.cache import cache_dir
from training.data.store.file_names import PARTIAL
from training.data.store.manifest import Manifest, StoreFile, how_to_redo
from training.data.store.storage import Storage
from training.errors import StoreError

_PARALLEL = 8


def local_copy(storage: Storage, manifest: Manifest, part: str, names: Sequence[str]) -> Path:
    """Return the folder with copies of some files of a store; of several processes on a node one copies and the others
    wait for it.

    The folder is ``$XDG_CACHE_HOME/orchestrator/stores/<key>/<part>``; it can be deleted at any time when nothing
    trains.

    Args:
        storage: Where the store lies.
        manifest: What it says of its files; each copy is compared with it.
        part: Name of this group of files.
        names: The files.

    Raises:
        StoreError: The store cannot be read or is not as its manifest says, or the cache cannot be written.
    """
    home = cache_dir() / "stores" / cache_key(manifest)
    target = home / part
    if target.is_dir():
        return target
    try:
        with _only_copier(home / f".{part}.lock"):
            if not target.is_dir():
                _copy_all(storage, manifest, names, home / f".{part}{PARTIAL}")
                os.replace(home / f".{part}{PARTIAL}", target)
    except OSError as error:
        raise StoreError(
            f"a remote store must be copied to this node, but {storage.uri} could not be copied to {target} "
            f"({error.strerror or error}). "
            f"Make room there, or set XDG_CACHE_HOME to a disk that has it"
        ) from error
    return target


def cache_key(manifest: Manifest) -> str:
    """Return the name of a store's folder in the cache.

    The data hash alone would not do: two stores of the same data may differ in their bytes, one with originals and one
    without.
    """
    files = "".join(f"{name}{file.sha256}" for name, file in sorted(manifest.files.items()))
    return f"{manifest.data_hash[:16]}-{hashlib.sha256(files.encode()).hexdigest()[:8]}"


def _copy_all(storage: Storage, manifest: Manifest, names: Sequence[str], draft: Path) -> None:
    """Copy into a draft folder; what an earlier attempt left whole there is kept."""
    draft.mkdir(exist_ok=True)
    try:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="copy") as pool:
            for copying in [pool.submit(_copy, storage, name, manifest.files[name], draft) for name in names]:
                copying.result()
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk must not stay full for our sake
        raise


def _copy(storage: Storage, name: str, expected: StoreFile, draft: Path) -> None:
    target = draft / name
    if target.is_file() and target.stat().st_size == expected.bytes:
        return  # renamed there after it was compared
    partial = draft / f"{name}{PARTIAL}"
    digest = hashlib.sha256()
    with open(partial, "wb") as file:
        for chunk in storage.chunks(name):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != expected.sha256:
        partial.unlink()
        raise StoreError(
            f"The store is damaged: {storage.uri}/{name} has changed since it was written. {how_to_redo(storage.uri)}"
        )
    os.replace(partial, target)


@contextmanager
def _only_copier(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
