"""What is prepared from this home: where it lies, how large it is, which hash it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.datasets.prepared import list_stores
from orchestrator.errors import UserError
from orchestrator.home import require_home
from training.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from training.data.store.manifest import Manifest

READY = "ready"


@dataclass(frozen=True)
class PreparedDataset:
    """One line of the list.

    Attributes:
        name: What it is called here.
        uri: Where it lies.
        state: ``ready``, or why it does not open.
        num_bytes: What it takes.
        counts: Official phase -> images.
        num_classes, image_size, encoding, data_hash, keeps_originals: Of the store; None where it does not open.
        num_left_out: Faults of the source that were left out.
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
        """Whether it opens."""
        return self.state == READY


def list_prepared() -> list[PreparedDataset]:
    """Return all that was prepared from this home, or began to be, by name.

    Raises:
        UserError: The home is no folder.
    """
    require_home()
    return [_look_into(name, uri) for name, uri in list_stores().items()]


def describe_store(name: str, uri: str, manifest: Manifest) -> list[str]:
    """Return in lines what a finished store is."""
    counts = " + ".join(f"{count:,} {phase}" for phase, count in manifest.counts.items())
    originals = " with originals" if manifest.keeps_originals else ""
    lines = [
        f"{name}: {counts} images, {len(manifest.classes)} classes, {manifest.image_size} px "
        f"{manifest.encoding}{originals}",
        f"  in {uri}, {format_bytes(manifest.num_bytes)}, data hash {manifest.data_hash[:12]}",
    ]
    unlabelled = sum(manifest.num_unlabelled.values())
    if unlabelled:
        lines.append(f"  not in it: {unlabelled:,} images that nothing is annotated in, as the protocol has it")
    if manifest.left_out:
        lines.append(
            f"  left out ({len(manifest.left_out)}), which changes the split and every figure that is compared with "
            f"the paper's:"
        )
        lines += [f"    {fault}" for fault in manifest.left_out]
    return lines


def format_bytes(num_bytes: int) -> str:
    """Return a size: ``153 MiB``, ``1.52 GiB``."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{max(num_bytes / 2**20, 0.1):.3g} MiB"


def _look_into(name: str, uri: str) -> PreparedDataset:
    # It comes with pyarrow.
    from training.data.store.manifest import read_manifest, require_files
    from training.data.store.storage import Storage

    try:
        manifest = read_manifest(uri)
        require_files(uri, manifest, Storage(uri).sizes())
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
