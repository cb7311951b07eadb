"""List the datasets that were prepared from this home, with place, size, hash and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.datasets.prepared import list_stores
from orchestrator.errors import UserError
from orchestrator.home import require_home
from training.counts import counted
from training.data.dataset_names import IMAGE_DATASETS
from training.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from training.data.store.manifest import Manifest

READY = "ready"


@dataclass(frozen=True)
class PreparedDataset:
    """One prepared dataset.

    Attributes:
        name: Its name here.
        uri: Location of its store.
        state: ``ready``, or why the store does not open.
        num_bytes: Size of the store.
        counts: Official phase -> images.
        num_classes, image_size, encoding, data_hash, keeps_originals: As in the manifest; None if it does not open.
        num_left_out: Faults of the source whose images were left out.
    """

    name: str
    uri: str
    state: str
    num_bytes: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    num_classes: int | None = None
    image_size: int | None = None
    encoding: str | None = None
    data_hash: str | None = None
    keeps_originals: bool | None = None
    num_left_out: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether the store opens."""
        return self.state == READY


def list_prepared() -> list[PreparedDataset]:
    """Return all datasets that were prepared from this home, finished or not, by name.

    Raises:
        UserError: The home is not a folder, or cannot be read.
    """
    require_home()
    return [_look_into(name, uri) for name, uri in list_stores().items()]


def describe_store(name: str, uri: str, manifest: Manifest) -> list[str]:
    """Return a summary of a finished store, in lines."""
    from training.data.sources.annotations import describe_faults  # brings NumPy

    counts = " + ".join(f"{count:,} {phase}" for phase, count in manifest.counts.items())
    originals = " with originals" if manifest.keeps_originals else ""
    lines = [
        f"{name}: {counts} images, {counted(len(manifest.classes), 'class')}, {manifest.image_size} px "
        f"{manifest.encoding}{originals}",
        f"  in {uri}, {format_bytes(manifest.num_bytes)}, data hash {manifest.data_hash[:12]}",
    ]
    unlabelled = sum(manifest.num_unlabelled.values())
    if unlabelled:
        lines.append(f"  without {unlabelled:,} images that have no annotation, which the protocol leaves out")
    if manifest.left_out:
        differs = "; the split and all results now differ from the paper's" if manifest.name in IMAGE_DATASETS else ""
        lines.append(f"  left out ({len(manifest.left_out):,}){differs}:")
        lines += [f"    {line}" for line in describe_faults(manifest.left_out)]
    return lines


def format_bytes(num_bytes: int) -> str:
    """Return a size: ``153 MiB``, ``1.52 GiB``."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{max(num_bytes / 2**20, 0.1):.3g} MiB"


def _look_into(name: str, uri: str) -> PreparedDataset:
    # Imported here because it loads pyarrow, which an empty list does not need.
    from training.data.store.manifest import read_manifest, require_files
    from training.data.store.storage import Storage

    try:
        manifest = read_manifest(uri)
        require_files(uri, manifest, Storage(uri).sizes())
    # One store that does not open must not hide the others.
    except (DatasetError, ConfigError, UserError, OSError) as error:
        return PreparedDataset(name, uri, str(error), _size_of(uri))
    return PreparedDataset(
        name,
        uri,
        READY,
        manifest.num_bytes,
        manifest.counts,
        len(manifest.classes),
        manifest.image_size,
        manifest.encoding,
        manifest.data_hash,
        manifest.keeps_originals,
        len(manifest.left_out),
    )


def _size_of(uri: str) -> int | None:
    folder = Path(uri)
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder.is_dir() else None
