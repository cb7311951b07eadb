"""Copy remote stores to a node's own disk, once per node, completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training.cache import cache_dir, making
from training.data.store.manifest import Manifest, StoreFile, how_to_redo
from training.data.store.storage import Storage
from training.errors import StoreError
from training.files import PARTIAL, open_whole

# An object storage is slow to answer, but serves many requests at a time.
_PARALLEL = 8


def local_copy(storage: Storage, manifest: Manifest, part: str, names: Sequence[str]) -> Path:
    """Return a folder with copies of some files of a store; one process per node copies, and the others wait for it.

    The folder is ``$XDG_CACHE_HOME/orchestrator/stores/<key>/<part>``. It may be deleted whenever nothing is training.

    Args:
        storage: The store's place.
        manifest: Its manifest, whose hashes each copy is compared with.
        part: Name of this group of files.
        names: Names of the files.

    Raises:
        StoreError: The store cannot be read or is damaged, or the cache cannot be written.
    """
    home = cache_dir() / "stores" / cache_key(manifest)
    target = home / part
    # This needs no lock: the folder gets its name only once it is complete.
    if target.is_dir():
        return target
    try:
        with making(target):
            if not target.is_dir():  # another process may have made it while we waited
                _copy_all(storage, manifest, names, home / f".{part}{PARTIAL}")
                os.replace(home / f".{part}{PARTIAL}", target)
    except OSError as error:
        raise StoreError(
            f"Cannot copy the store {storage.uri} to this node's {target} ({error.strerror or error}). "
            f"Make room there, or set XDG_CACHE_HOME to a disk that has room"
        ) from error
    return target


def require_room(manifest: Manifest) -> None:
    """Check that what :func:`local_copy` would still copy of a store fits on this node's disk.

    Raises:
        StoreError: It does not fit.
    """
    home = cache_dir() / "stores" / cache_key(manifest)
    copied = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    # The cache may not exist yet; it will be on the disk of its nearest existing parent.
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    if manifest.num_bytes - copied > free:
        raise StoreError(
            f"A copy of the store needs {(manifest.num_bytes - copied) / 2**30:.1f} GiB on this node, but "
            f"{cache_dir()} has {free / 2**30:.1f} GiB free. Make room there, or set XDG_CACHE_HOME to a disk that has "
            "room"
        )


def cache_key(manifest: Manifest) -> str:
    """Return the name of a store's folder in the cache.

    The data hash alone is not enough: two stores of the same data may differ in their files, for example with and
    without originals.
    """
    # Sorted, because a manifest's order of files means nothing.
    files = "".join(f"{name}{file.sha256}" for name, file in sorted(manifest.files.items()))
    return f"{manifest.data_hash[:16]}-{hashlib.sha256(files.encode()).hexdigest()[:8]}"


def _copy_all(storage: Storage, manifest: Manifest, names: Sequence[str], draft: Path) -> None:
    """Copy into a draft folder; files that an earlier attempt completed there are kept."""
    draft.mkdir(exist_ok=True)
    try:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="copy") as pool:
            for copying in [pool.submit(_copy, storage, name, manifest.files[name], draft) for name in names]:
                copying.result()
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)  # do not leave a full disk full
        raise


def _copy(storage: Storage, name: str, expected: StoreFile, draft: Path) -> None:
    target = draft / name
    if target.is_file() and target.stat().st_size == expected.bytes:
        return  # files get this name only after their hash was compared
    digest = hashlib.sha256()
    with open_whole(target) as file:
        for chunk in storage.chunks(name):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != expected.sha256:
            raise StoreError(
                f"The store is damaged: {storage.uri}/{name} has changed since it was written. "
                f"{how_to_redo(storage.uri)}"
            )
