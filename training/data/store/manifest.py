"""Read and write the manifest of a store. It is written last, and a store opens only once it has one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from training.data.sources.annotations import Fault
from training.data.store.file_names import MANIFEST, is_manifest, is_ours, is_telling
from training.data.store.images import Encoding, Preprocessing
from training.data.store.storage import Storage
from training.errors import StoreError
from training.path_names import require_path_name

SCHEMA_VERSION = 1
DEFAULT_ENCODING: Encoding = "raw"
"""Trains on 1.6 times as many images per core-second as JPEG, for 7 times the space
(benchmarks/results/input_pipeline.md), and its pixels are exactly those of the literature's resize.
"""


@dataclass(frozen=True)
class StoreFile:
    """Size and content hash of one file of a store."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about a store without opening its other files.

    Attributes:
        name: Name of the dataset.
        layout: The layout in which the source was found, in words.
        classes: C names, in the order of the label columns.
        parts: Names of the parts that points are numbered by, if any.
        image_size: Side of the images in px.
        encoding: ``jpeg`` or ``raw``.
        keeps_originals: Whether the original files are kept too.
        shard_images: Rows of a phase per shard; a left-out row has no image in its shard.
        counts: Official phase -> images, without those left out.
        has_true: Official phase -> whether all true labels are known.
        data_hash: sha256 of all that a run can see, the same on any machine; see
            :func:`training.data.store.label_table.compute_data_hash`.
        source_hash: sha256 of the source's labels and the settings, which a second ``prepare`` compares.
        preprocessing: Everything that decides a pixel.
        label_files: Path -> sha256 of every label file that was read.
        left_out: Faults of the source whose images were left out.
        num_unlabelled: Official phase -> images without any annotation, which the protocol leaves out.
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
        """Size of all files of the store."""
        return sum(file.bytes for file in self.files.values())

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, uri: str) -> Manifest:
        """Parse the text of a ``manifest.json``.

        Raises:
            StoreError: It is damaged, or of another version.
        """
        if not is_manifest(text):
            raise StoreError(f"{uri}/{MANIFEST} is damaged. {how_to_redo(uri)}")
        raw = json.loads(text)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise StoreError(
                f"The store {uri} has schema version {raw['schema_version']}, and this program reads version "
                f"{SCHEMA_VERSION}. {how_to_redo(uri)}"
            )
        try:
            return cls._parse(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = str(error) if isinstance(error, ValueError) else repr(error)  # a KeyError says only the key
            raise StoreError(f"{uri}/{MANIFEST} is damaged ({why}). {how_to_redo(uri)}") from None

    @classmethod
    def _parse(cls, raw: Mapping[str, Any]) -> Manifest:
        values = {each.name: raw[each.name] for each in fields(cls)}
        values["classes"], values["parts"] = tuple(raw["classes"]), tuple(raw["parts"])
        values["left_out"] = tuple(Fault(**fault) for fault in raw["left_out"])
        values["files"] = {name: StoreFile(**file) for name, file in raw["files"].items()}
        Preprocessing(raw["image_size"], raw["encoding"])  # checks their ranges
        # They become the names of folders in the cache, and of the files that are copied into it.
        for key in ("name", "data_hash", "source_hash"):
            require_path_name(raw[key], key)
        if others := [name for name in raw["files"] if not is_ours(name)]:
            raise ValueError(f"it lists {others[0]!r:.60}, which is not a file of a store")
        return cls(**values)


def how_to_redo(uri: str) -> str:
    """Return the sentence that says how to prepare a damaged store again."""
    # Only the manifest: the folder may contain unrelated files, and without the manifest all shards are rewritten.
    command = f"orchestrator data prepare NAME --source DIR --out {shlex.quote(uri)}"
    return f"Delete {uri}/{MANIFEST} and prepare the dataset again: {command}"


def read_manifest(uri: str) -> Manifest:
    """Read the manifest of a finished store.

    Raises:
        StoreError: No finished store is there, it is of another version, or it cannot be read.
    """
    try:
        storage = Storage(uri)
        # A manifest that is no text either gets the message of a damaged one.
        text = storage.read(MANIFEST).decode("utf-8", "replace")
        if not is_manifest(text) and not is_telling(storage.sizes()):
            raise StoreError(
                f"{uri} holds no store: its {MANIFEST} belongs to another program. "
                f"Prepare the dataset into another folder: orchestrator data prepare NAME --source DIR --out OTHER"
            )
    except FileNotFoundError:
        raise StoreError(_describe_absence(uri)) from None
    except OSError as error:
        raise StoreError(f"Cannot read the store {uri}: {error}") from error
    return Manifest.from_json(text, uri)


def require_files(uri: str, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Check by their sizes that all files of a store are there.

    Raises:
        StoreError: Files are missing or cut short.
    """
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.bytes]
    if wrong:
        name = wrong[0]
        found = f"has {sizes[name]} bytes instead of {manifest.files[name].bytes}" if name in sizes else "is missing"
        more = f" (and {len(wrong) - 1} more files are damaged)" if len(wrong) > 1 else ""
        raise StoreError(f"The store is damaged: {uri}/{name} {found}{more}. {how_to_redo(uri)}")


def _describe_absence(uri: str) -> str:
    try:
        begun = is_telling(Storage(uri).sizes())
    except OSError:
        begun = False
    if begun:
        return (
            f"The store {uri} is not finished: `orchestrator data prepare` was stopped or is still running. "
            f"Run the same command again: it continues where it stopped"
        )
    command = f"orchestrator data prepare NAME --source DIR --out {shlex.quote(uri)}"
    if "://" in uri:
        return f"No store at {uri}. Prepare it: {command}"
    return (
        f"No store at {uri}. If it was moved, move it to data/NAME in the home, or link it there: "
        f"ln -s PLACE data/NAME. If not, prepare it: {command}"
    )
