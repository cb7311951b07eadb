"""Read a store: labels all at once, images row by row, and the test set through a separate method."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.cache import cache_dir
from training.data.protocol import draw_single_positives, split_train_val
from training.data.split import SplitData
from training.data.store.file_names import labels_name, shard_name
from training.data.store.images import BadImageError, Encoding, decode_image, open_upright
from training.data.store.known_labels import ANY_LABELS, KnownLabels
from training.data.store.label_table import LabelTable, compute_data_hash, from_parquet, pad_boxes
from training.data.store.manifest import Manifest, how_to_redo, read_manifest, require_files
from training.data.store.node_cache import local_copy, require_room
from training.data.store.shards import ShardFile, read_row
from training.data.store.storage import Storage
from training.errors import StoreError

_LEARNING = ("train", "val")


@dataclass(frozen=True, eq=False)
class StoreImages:
    """Images of one split in a store. It can be pickled; each process opens the files when it first reads them.

    Attributes:
        shards: Files of encoded images.
        shard_of: int32 (N,), the shard of each row.
        position: int32 (N,), the position of each row in its shard.
        image_size: Side in px.
        encoding: ``jpeg`` or ``raw``.
    """

    shards: tuple[ShardFile, ...]
    shard_of: NDArray[np.int32]
    position: NDArray[np.int32]
    image_size: int
    encoding: Encoding

    def __len__(self) -> int:
        return len(self.position)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return uint8 (n, 3, H, W), channels last in memory.

        Raises:
            StoreError: The store is damaged.
        """
        # Allocated with channels last, as images are decoded, so nothing has to be transposed.
        pixels = torch.empty((len(rows), self.image_size, self.image_size, 3), dtype=torch.uint8)
        target = pixels.numpy()
        for place, row in enumerate(rows):
            shard = self.shards[self.shard_of[row]]
            try:
                target[place] = decode_image(read_row(shard, int(self.position[row])), self.encoding, self.image_size)
            except (StoreError, MemoryError):
                raise
            except Exception as error:  # a decoder may raise anything for a file that was made for it
                raise StoreError(f"The store is damaged: row {row} in {shard.path} does not decode: {error}") from None
        return pixels.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class StoreImagesWithOriginals(StoreImages):
    """Images whose original files were kept; see :class:`training.data.split.OriginalImages`.

    Attributes:
        originals: Shards of the original files, one per shard of images.
    """

    originals: tuple[ShardFile, ...] = ()

    def read_original(self, row: int) -> Image.Image:
        """Return one original in RGB, rotated as its EXIF data says.

        Raises:
            StoreError: The store is damaged.
        """
        shard = self.originals[self.shard_of[row]]
        try:
            return open_upright(read_row(shard, int(self.position[row])))
        except BadImageError as error:
            raise StoreError(f"The store is damaged: the original of row {row} in {shard.path} {error}") from None


class Store:
    """A finished store.

    Args:
        uri: Its place.
        manifest: Its manifest.
    """

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.uri, self.manifest, self._storage = uri, manifest, Storage(uri)
        self._tables: dict[str, LabelTable] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """C names, in the order of the label columns."""
        return self.manifest.classes

    def split(
        self, name: Literal["train", "val"], split_seed: int, draw_seed: int, known: KnownLabels = ANY_LABELS
    ) -> SplitData:
        """Return a split for training or selection with its single positives; no file of the test set is opened.

        Draw and split are made on the whole official phase, as in the SPML literature; left-out images are dropped only
        afterwards, and with them those of which no label is known. ``split_seed`` has no effect if the source gives a
        ``val`` of its own, ``draw_seed`` has none if the positives are given.

        Raises:
            ConfigError: The store does not give the labels that ``known`` asks for.
            StoreError: The store is damaged, or has no such split.
        """
        if name not in _LEARNING:
            raise ValueError(f"split must be train or val, but got split={name}. Only promotion opens the test split")
        known.require(self.labels("train"), self.manifest.name)
        phase, rows = self._rows(name, split_seed)
        return self._data(name, phase, rows, draw_seed, known)

    def test_split(self, draw_seed: int, known: KnownLabels = ANY_LABELS) -> SplitData:
        """Return the official test set, without known negatives, since nothing is learnt from it.

        Raises:
            StoreError: The store is damaged, or has no test set.
        """
        return self._data("test", "test", np.arange(len(self.labels("test"))), draw_seed, known)

    def labels(self, phase: str) -> LabelTable:
        """Return the labels of an official phase (``train``, ``test``, or ``val`` if the source gives one).

        Raises:
            StoreError: The store has no such phase, or is damaged.
        """
        if phase not in self._tables:
            self._tables[phase] = from_parquet(self._checked(self._label_file(phase)), len(self.classes))
        return self._tables[phase]

    def observed(self, phase: str, draw_seed: int, known: KnownLabels = ANY_LABELS) -> NDArray[np.bool_]:
        """Return the observed labels (N, C) of an official phase: the source's own, or those drawn by ``draw_seed``.

        Raises:
            StoreError: The store has no such phase, or is damaged.
        """
        table = self.labels(phase)
        if not known.draws(table):
            assert table.observed is not None
            return table.observed
        assert table.true is not None  # a phase has true labels, observed ones or both
        return _cached_draw(
            cache_dir() / "draws" / self.manifest.data_hash / f"{phase}-{draw_seed}.npy", table.true, draw_seed
        )

    def rows(
        self, name: Literal["train", "val"], split_seed: int, known: KnownLabels = ANY_LABELS
    ) -> tuple[str, NDArray[np.int64]]:
        """Return the official phase of a split, and its rows in :meth:`labels`, in the order of :meth:`split`.

        Raises:
            StoreError: The store has no such split, or is damaged.
        """
        phase, rows = self._rows(name, split_seed)
        return phase, _usable(self.labels(phase), rows, known if name == "train" else ANY_LABELS)

    def places(self, phase: str) -> NDArray[np.int64]:
        """Return for each row of :meth:`labels` its position among those that were not left out.

        Raises:
            StoreError: The store has no such phase, or is damaged.
        """
        return np.cumsum(self.labels(phase).kept) - 1

    def images(self, phase: Literal["train", "val"]) -> tuple[tuple[str, ...], StoreImages]:
        """Return the names and images of an official phase, in the order of :meth:`labels`, without those left out.

        Raises:
            StoreError: The store has no such phase, or is damaged.
        """
        if phase not in _LEARNING:
            raise ValueError(f"phase must be train or val, but got phase={phase}. Only promotion opens the test split")
        table = self.labels(phase)
        rows = np.nonzero(table.kept)[0]
        return tuple(table.ids[row] for row in rows), self._images(phase, rows)

    def points(self, phase: str) -> list[NDArray[np.float32]] | None:
        """Return for each image that was not left out float32 (M, 3) of (part, x, y) in px of the store, or None.

        Raises:
            StoreError: The store has no such phase, or is damaged.
        """
        table = self.labels(phase)
        return None if table.points is None else [table.points[row] for row in np.nonzero(table.kept)[0]]

    def require_room(self) -> None:
        """Check that a copy of the store fits on this node's disk, if it is remote: a run needs one.

        Raises:
            StoreError: It does not fit.
        """
        if self._storage.folder is None:
            require_room(self.manifest)

    def check(self) -> list[str]:
        """Read every file and return descriptions of any damage; empty if all files are as written.

        Raises:
            OSError: The storage cannot be read.
        """
        sizes = self._storage.sizes()
        problems = [f"{name} is missing" for name in self.manifest.files if name not in sizes]
        for name, file in self.manifest.files.items():
            if name in sizes and self._storage.sha256(name) != file.sha256:
                problems.append(f"{name} has changed since it was written")
        if not problems and self._data_hash() != self.manifest.data_hash:
            problems.append("the manifest's data hash does not fit the labels")
        return problems

    def _rows(self, name: str, split_seed: int) -> tuple[str, NDArray[np.int64]]:
        """Return the official phase of a split and its rows, left-out ones included."""
        # A val of the source's own; otherwise it is split off train, by indices into the whole phase.
        if labels_name("val") in self.manifest.files:
            return name, np.arange(len(self.labels(name)))
        train, val = split_train_val(len(self.labels("train")), split_seed)
        return "train", train if name == "train" else val

    def _data(self, name: str, phase: str, rows: NDArray[np.int64], draw_seed: int, known: KnownLabels) -> SplitData:
        table, observed = self.labels(phase), self.observed(phase, draw_seed, known)
        # Negatives are for learning: val and test have the same images with and without them.
        known = known if name == "train" else ANY_LABELS
        rows = _usable(table, rows, known)  # after draw and split, which count left-out rows too
        negative = known.negative(table)
        return SplitData(
            name=name,
            images=self._images(phase, rows),
            observed=torch.from_numpy(observed[rows]),
            true=None if table.true is None else torch.from_numpy(table.true[rows]),
            boxes=None if table.boxes is None else torch.from_numpy(pad_boxes([table.boxes[row] for row in rows])),
            classes=self.classes,
            names=tuple(table.ids[row] for row in rows),
            negative=None if negative is None else torch.from_numpy(negative[rows]),
            recordings=None if table.recordings is None else _numbered([table.recordings[row] for row in rows]),
        )

    def _images(self, phase: str, rows: NDArray[np.int64]) -> StoreImages:
        folder = self._folder(phase)
        kept, size = self.labels(phase).kept, self.manifest.shard_images
        num_shards = -(-len(kept) // size)
        # Left-out rows have no image in their shard, so the rows after them have moved up.
        position = np.concatenate(
            [np.cumsum(kept[first : first + size]) - 1 for first in range(0, len(kept), size)] or [rows]
        )

        def files(originals: bool) -> tuple[ShardFile, ...]:
            names = [shard_name(phase, number, originals=originals) for number in range(num_shards)]
            counts = [int(kept[number * size : (number + 1) * size].sum()) for number in range(num_shards)]
            return tuple(
                ShardFile(folder / each, self.manifest.files[each].sha256, count)
                for each, count in zip(names, counts, strict=True)
            )

        shard_of, place = (rows // size).astype(np.int32), position[rows].astype(np.int32)
        if self.manifest.keeps_originals:
            return StoreImagesWithOriginals(
                files(False), shard_of, place, self.manifest.image_size, self.manifest.encoding, files(True)
            )
        return StoreImages(files(False), shard_of, place, self.manifest.image_size, self.manifest.encoding)

    def _folder(self, phase: str) -> Path:
        """Return the local folder with the images of a phase; a remote store is copied there first."""
        if self._storage.folder is not None:
            return self._storage.folder
        # Test images are copied separately: training must never touch them.
        group = ("test",) if phase == "test" else _LEARNING
        names = [
            name
            for name in self.manifest.files
            if name.endswith(".arrow") and name.startswith(tuple(f"{each}-" for each in group))
        ]
        return local_copy(self._storage, self.manifest, group[0], names)

    def _label_file(self, phase: str) -> str:
        if labels_name(phase) not in self.manifest.files:
            phases = ", ".join(self.manifest.counts)
            raise StoreError(f"The store {self.uri} has {phases}, but no {phase} set")
        return labels_name(phase)

    def _checked(self, name: str) -> bytes:
        try:
            content = self._storage.read(name)
        except OSError as error:
            raise StoreError(f"Cannot read {self.uri}/{name} of the store: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise StoreError(
                f"The store is damaged: {self.uri}/{name} has changed since it was written. {how_to_redo(self.uri)}"
            )
        return content

    def _data_hash(self) -> str:
        tables = {phase: self.labels(phase) for phase in self.manifest.counts}
        manifest = self.manifest
        return compute_data_hash(
            tables, manifest.classes, manifest.parts, manifest.preprocessing, manifest.schema_version
        )


def open_store(uri: str) -> Store:
    """Open a finished store: read its manifest and compare the sizes of its other files.

    Raises:
        StoreError: It does not exist, is not finished, is of another version, or files are missing or cut short.
    """
    store = Store(uri, read_manifest(uri))
    try:
        sizes = Storage(uri).sizes()
    except OSError as error:
        raise StoreError(f"Cannot read the store {uri}: {error}") from error
    require_files(uri, store.manifest, sizes)
    return store


def _numbered(names: Sequence[str]) -> Tensor:
    """Return the number of each name, counted from 0 in the order of first mention."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.long)


def _usable(table: LabelTable, rows: NDArray[np.int64], known: KnownLabels) -> NDArray[np.int64]:
    return rows[(table.kept & known.is_known(table))[rows]]


def _cached_draw(path: Path, true: NDArray[np.bool_], draw_seed: int) -> NDArray[np.bool_]:
    """Return the draw, from the cache if possible: COCO's takes seconds, and each trial of a sweep needs it."""
    with suppress(OSError, ValueError, EOFError):
        packed = np.load(path, allow_pickle=False)
        drawn = np.unpackbits(packed, axis=1, count=true.shape[1]).astype(bool)
        # A cached file may be damaged: use it only if it could be a draw from these labels.
        if drawn.shape == true.shape and bool((drawn.sum(1) == true.any(1)).all()) and not bool((drawn & ~true).any()):
            return drawn
    drawn = draw_single_positives(true, draw_seed)
    with suppress(OSError):  # without the cache, those seconds are merely spent again
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several trials may draw at the same time: each writes its own draft, and the last rename wins.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with open(draft, "wb") as file:
            np.save(file, np.packbits(drawn, axis=1))
        draft.replace(path)
    return drawn
