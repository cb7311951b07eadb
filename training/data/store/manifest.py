"""The manifest of a store: written last, it is what makes the store open."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from training.data.sources.annotations import Fault
from training.data.store.images import Encoding, Preprocessing
from training.data.store.storage import PARTIAL, Storage
from training.data.store.writer_lock import LOCK
from training.errors import StoreError

SCHEMA_VERSION = 1
DEFAULT_ENCODING: Encoding = "raw"
"""Trains on 1.6 times as many images per core-second as JPEG, for 7 times the space
(benchmarks/results/input_pipeline.md), and its pixels are exactly those of the literature's resize.
"""
MANIFEST = "manifest.json"
DONE = ".done.json"
"""End of the name of the note beside a whole shard, while the store is not finished."""
_PHASE = "(train|val|test)"
_OURS = re.compile(
    rf"(manifest\.json|{_PHASE}-labels\.parquet|{_PHASE}-\d{{5,}}(\.arrow|\.originals\.arrow|\.done\.json))(\.partial)?"
)


@dataclass(frozen=True)
class StoreFile:
    """Size and content hash of one file of a store."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a store without opening any other of its files.

    Attributes:
        name: Of the dataset.
        layout: Which layout of the source was found, in words.
        classes: C names, in the order of the label columns.
        parts: Names of the parts that points count, if any.
        image_size: Side of the images in px.
        encoding: ``jpeg`` or ``raw``.
        keeps_originals: Whether the originals' files are kept too.
        shard_images: Rows of a phase per shard; a left-out row has no image in its shard.
        counts: Official phase -> images, without those left out.
        has_true: Official phase -> whether all true labels are known.
        data_hash: sha256 of all that a run can see, the same on any machine; see
            :func:`training.data.store.label_table.compute_data_hash`.
        source_hash: sha256 of the source's labels and the settings of preparing: what a second ``prepare`` compares.
        preprocessing: All that decides a pixel.
        label_files: Path -> sha256 of every label file that was read.
        left_out: What was wrong with the source and left out.
        num_unlabelled: Official phase -> images that the protocol leaves out because nothing is annotated in them.
        files: Name -> size and hash of every other file of the store.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    image_size: int
    encoding: Encoding
    keeps_originals: bool
    shard_images: int
    counts: dict[str, int]
    has_true: dict[str, bool]
    data_hash: str
    source_hash: str
    preprocessing: dict[str, Any]
    label_files: dict[str, str]
    left_out: tuple[Fault, ...]
    num_unlabelled: dict[str, int]
    files: dict[str, StoreFile]
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def num_bytes(self) -> int:
        """What all files of the store take."""
        return sum(file.bytes for file in self.files.values())

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, uri: str) -> Manifest:
        """Parse the text of a ``manifest.json``.

        Raises:
            StoreError: It is of another version, or none at all.
        """
        try:
            raw = json.loads(text)
            version = raw["schema_version"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{uri}/{MANIFEST} must be the manifest of a store, but is none. {again(uri)}") from None
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"a store must be of schema version {SCHEMA_VERSION}, but {uri} is of version {version}. {again(uri)}"
            )
        try:
            return cls._parse(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{uri}/{MANIFEST} must be whole, but got {error!r}. {again(uri)}") from None

    @classmethod
    def _parse(cls, raw: Mapping[str, Any]) -> Manifest:
        values = {each.name: raw[each.name] for each in fields(cls)}
        values["classes"], values["parts"] = tuple(raw["classes"]), tuple(raw["parts"])
        values["left_out"] = tuple(Fault(**fault) for fault in raw["left_out"])
        values["files"] = {name: StoreFile(**file) for name, file in raw["files"].items()}
        Preprocessing(raw["image_size"], raw["encoding"])
        return cls(**values)


def labels_name(phase: str) -> str:
    """Return the name of the label file of a phase."""
    return f"{phase}-labels.parquet"


def shard_name(phase: str, number: int, *, originals: bool = False) -> str:
    """Return the name of a shard of images, or of the shard of their originals."""
    return f"{phase}-{number:05d}{'.originals' if originals else ''}.arrow"


def is_ours(name: str) -> bool:
    """Return whether a file in the folder of a store is a store's, by its name: others may lie beside it, and are left
    alone.
    """
    return _OURS.fullmatch(name) is not None


def again(uri: str) -> str:
    """Say how a store is made anew."""
    return f"Delete it, and make it anew: orchestrator data prepare NAME --source DIR --out {uri}"


def read_manifest(uri: str) -> Manifest:
    """Read the manifest of a finished store.

    Raises:
        StoreError: There is no finished store, it is of another version, or it cannot be read.
    """
    try:
        storage = Storage(uri)
        text = storage.read(MANIFEST)
    except FileNotFoundError:
        raise StoreError(_absence(uri)) from None
    except OSError as error:
        raise StoreError(f"a store must be readable, but {uri} is not: {error}") from error
    return Manifest.from_json(text.decode("utf-8", "replace"), uri)


def require_files(uri: str, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Check that all files of a store are there, by their sizes.

    Raises:
        StoreError: Files are missing or cut short.
    """
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.bytes]
    if wrong:
        name = wrong[0]
        found = f"{sizes[name]} bytes in place of {manifest.files[name].bytes}" if name in sizes else "missing"
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise StoreError(f"a store must be as its manifest says, but {uri}/{name} is {found}{more}. {again(uri)}")


def _absence(uri: str) -> str:
    try:
        begun = any(name == LOCK or name.endswith((DONE, PARTIAL)) for name in Storage(uri).sizes())
    except OSError:
        begun = False
    if begun:
        return (
            f"a store must be finished before it opens, but {uri} is not: its preparing was stopped or still goes on. "
            f"Run the same `orchestrator data prepare` again: it goes on where it stopped"
        )
    return (
        f"a store must be prepared, but there is none at {uri}. Prepare it: orchestrator data prepare NAME --source "
        f"DIR --out {uri}"
    )
