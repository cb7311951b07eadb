"""Plan shards, and keep a note next to each complete one, so that an interrupted `data prepare` can continue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.sources.annotations import Annotations, Phase
from training.data.store.file_names import DONE, shard_name
from training.data.store.images import ImageFacts, Preprocessing
from training.data.store.manifest import SCHEMA_VERSION, Manifest, StoreFile
from training.data.store.shards import encode_shard
from training.data.store.storage import Storage


@dataclass(frozen=True)
class PlannedShard:
    """Rows of one phase that go into one shard.

    Attributes:
        phase: Official phase.
        number: Counted from 0 within the phase.
        ids, files: Of its rows.
        wanted: For each row whether to read it at all; the source's reader may have found a fault in it.
        key: sha256 of everything that decides the shard's content except the content of the image files.
    """

    phase: str
    number: int
    ids: tuple[str, ...]
    files: tuple[str, ...]
    wanted: tuple[bool, ...]
    key: str

    @property
    def name(self) -> str:
        """Name of the file of its images."""
        return shard_name(self.phase, self.number)

    @property
    def note_name(self) -> str:
        """Name of the note that says it is complete."""
        return self.name.removesuffix(".arrow") + DONE


@dataclass(frozen=True)
class Row:
    """One image of a shard, with the size and modification time by which an unchanged file is recognised."""

    facts: ImageFacts
    num_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Note:
    """Content of a note: the shard's rows, None for those left out, and its files."""

    rows: tuple[Row | None, ...]
    files: dict[str, StoreFile]


def plan_shards(
    annotations: Annotations,
    preprocessing: Preprocessing,
    keep_originals: bool,
    shard_images: int,
    bad_ids: Collection[str],
) -> list[PlannedShard]:
    """Cut the phases into shards, by the source's lists alone: images that turn out bad must not move the others."""
    settings = [SCHEMA_VERSION, preprocessing.describe(), keep_originals, shard_images]
    planned = []
    for name, phase in annotations.phases.items():
        for number, start in enumerate(range(0, len(phase), shard_images)):
            rows = slice(start, start + shard_images)
            ids, files = phase.ids[rows], phase.files[rows]
            # Part of the key: when a fault is fixed, its shard is rewritten with the image.
            wanted = tuple(each not in bad_ids for each in ids)
            planned.append(
                PlannedShard(name, number, ids, files, wanted, _hash_json([settings, name, number, ids, files, wanted]))
            )
    return planned


def write_shard(
    storage: Storage,
    shard: PlannedShard,
    *,
    images: Sequence[bytes],
    originals: Sequence[bytes] | None,
    rows: Sequence[Row | None],
) -> Note:
    """Write a shard's files, then its note.

    Raises:
        OSError: The storage cannot be written.
    """
    files = {}
    if originals is not None:
        name = shard_name(shard.phase, shard.number, originals=True)
        files[name] = _put(storage, name, originals)
    files[shard.name] = _put(storage, shard.name, images)
    note = Note(tuple(rows), files)
    # After the shard: a note must never describe a shard that does not exist.
    storage.put(shard.note_name, json.dumps({"key": shard.key, **asdict(note)}).encode())
    return note


def read_note(storage: Storage, shard: PlannedShard, sizes: Mapping[str, int], root: Path) -> Note | None:
    """Return the note of a shard, or None if the shard must be made (again).

    It must if it is incomplete, was made with other settings or from other rows, or if an original has changed or was
    left out.

    Raises:
        OSError: The storage cannot be read.
    """
    if shard.note_name not in sizes:
        return None
    try:
        raw = json.loads(storage.read(shard.note_name))
        if raw["key"] != shard.key:
            return None
        note = _parse(raw)
    # Cut short by a kill, or written by another version: the shard is made again.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    fits = all(sizes.get(name) == file.bytes for name, file in note.files.items())
    return (
        note if fits and all(map(_unchanged, [root] * len(shard.ids), shard.files, note.rows, shard.wanted)) else None
    )


def source_hash(annotations: Annotations, preprocessing: Preprocessing, keep_originals: bool) -> str:
    """Return the sha256 of a source's labels and lists, and of the settings of `data prepare`."""
    digest = hashlib.sha256()
    header = [
        SCHEMA_VERSION,
        preprocessing.describe(),
        keep_originals,
        annotations.name,
        annotations.classes,
        annotations.parts,
    ]
    # Without the wording of faults, which may change between versions.
    faults = [[fault.path, fault.line, fault.id, fault.is_fatal] for fault in annotations.faults]
    digest.update(_hash_json([header, faults]).encode())
    for name, phase in sorted(annotations.phases.items()):
        digest.update(_hash_json([name, phase.ids, phase.files]).encode())
        # Only where there are any, so that the hashes of sources without them stay what they were.
        if phase.negatives or phase.recordings:
            digest.update(_hash_json([sorted(phase.negatives), phase.recordings]).encode())
        for array in _arrays(phase):
            digest.update(
                b"-" if array is None else _hash_json([array.shape, str(array.dtype)]).encode() + array.tobytes()
            )
    return digest.hexdigest()


def is_same_source(
    manifest: Manifest, annotations: Annotations, preprocessing: Preprocessing, keep_originals: bool
) -> bool:
    """Return whether a store was made from these labels and lists with these settings."""
    if manifest.source_hash == source_hash(annotations, preprocessing, keep_originals):
        return True
    # Earlier versions also hashed the wording of faults: compare the hashed content without the wording.
    known = [(fault.path, fault.line, fault.id) for fault in annotations.faults]
    return (
        bool(known)
        and manifest.label_files == annotations.label_files
        and [(fault.path, fault.line, fault.id) for fault in manifest.left_out[: len(known)]] == known
        and (manifest.name, manifest.classes, manifest.parts)
        == (annotations.name, annotations.classes, annotations.parts)
        and (manifest.preprocessing, manifest.keeps_originals) == (preprocessing.describe(), keep_originals)
    )


def _arrays(phase: Phase) -> list[Any]:
    # Arrays of different lengths in one row of bytes, then their lengths, so that no two sources hash alike.
    # The empty array in front is for a phase without images: concatenate refuses an empty list.
    located = [
        None if lists is None else np.concatenate([np.zeros((0, 1)), *(some.reshape(-1, 1) for some in lists)])
        for lists in (phase.boxes, phase.points)
    ]
    lengths = [
        None if lists is None else np.array([len(some) for some in lists]) for lists in (phase.boxes, phase.points)
    ]
    negatives = [phase.negatives[kind] for kind in sorted(phase.negatives)]
    return [phase.true, phase.observed, *located, *lengths, *negatives]


def _put(storage: Storage, name: str, images: Sequence[bytes]) -> StoreFile:
    content = encode_shard(images)
    storage.put(name, content)
    return StoreFile(content.size, hashlib.sha256(content).hexdigest())


def _parse(raw: Mapping[str, Any]) -> Note:
    rows = tuple(row and Row(ImageFacts(**row["facts"]), row["num_bytes"], row["mtime_ns"]) for row in raw["rows"])
    return Note(rows, {name: StoreFile(**file) for name, file in raw["files"].items()})


def _unchanged(root: Path, name: str, row: Row | None, wanted: bool) -> bool:
    if row is None:
        return not wanted
    # By size and time, not by hash: hashing all of COCO would take much of the time that this saves.
    try:
        state = (root / name).stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (row.num_bytes, row.mtime_ns)


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=list).encode()).hexdigest()
