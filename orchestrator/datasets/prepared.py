"""Where prepared datasets lie: in ``<home>/data/<name>/``, or elsewhere, which a pointer ``<home>/data/<name>.json``
remembers.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UserError
from orchestrator.home import HOME_VARIABLE, check_name, data_dir

if TYPE_CHECKING:
    from training.config.run import Scalar

EMBEDDED = "digits"
IMAGE_DATASETS = ("voc", "coco", "nuswide", "cub")
FOLDER = "folder"
"""Images and labels of one's own; ``--name`` gives such a dataset another name."""
_MANIFEST = "manifest.json"
# Three colours; a JPEG of quality 95 was 0.089 MB at 448 px.
_BYTES_PER_PX = {"raw": 3.0, "jpeg": 0.45}


def find_store(name: str) -> str | None:
    """Return the URI of the store of a dataset, or None if none was prepared from this home."""
    pointer = _pointer(name)
    if pointer.is_file():
        return _read_pointer(pointer)
    return str(data_dir(name)) if (data_dir(name) / _MANIFEST).is_file() else None


def require_store(name: str) -> str:
    """Return the URI of the store of a dataset.

    Raises:
        UserError: There is none; the message says which is nearest, or the command that prepares it.
    """
    found = find_store(name)
    if found is not None:
        return found
    if name == EMBEDDED:
        raise UserError(
            "dataset must be one that is prepared from files, but digits is made when it is needed: orchestrator sweep "
            "digits"
        )
    if name in list_stores():
        raise UserError(
            f"dataset {name} must be prepared, but its store under {data_dir('')} is not finished: its preparing was "
            f"stopped or still goes "
            f"on. Run the same `data prepare` again: it goes on where it stopped."
        )
    nearest = difflib.get_close_matches(name, [*list_stores(), *IMAGE_DATASETS, FOLDER], n=1)
    if nearest and name not in (*nearest, *IMAGE_DATASETS):
        raise UserError(
            f"dataset must be a prepared one, but got {name!r}. Did you mean {nearest[0]}? `orchestrator data list` "
            f"lists them."
        )
    raise UserError(
        f"dataset {name} must be prepared, but there is no store of it under {data_dir('')}. Prepare it: "
        f"{prepare_command(name)}"
    )


def list_stores() -> dict[str, str]:
    """Return name -> URI of what was prepared from this home, or began to be."""
    folder = data_dir("")
    found = {path.name: str(path) for path in sorted(folder.glob("*")) if path.is_dir() and any(path.iterdir())}
    return dict(sorted((found | {path.stem: _read_pointer(path) for path in sorted(folder.glob("*.json"))}).items()))


def remember_store(name: str, uri: str) -> None:
    """Note where the store of a dataset lies, if not in its own folder of this home.

    Raises:
        UserError: The home cannot be written.
    """
    pointer = _pointer(name)
    try:
        if uri == str(data_dir(name)):
            pointer.unlink(missing_ok=True)
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that nobody reads half of it.
        draft = pointer.with_name(f".{pointer.name}.{os.getpid()}")
        draft.write_text(json.dumps({"uri": uri}) + "\n", encoding="utf-8")
        draft.replace(pointer)
    except OSError as error:
        raise UserError(
            f"{pointer} must be a file that can be written, but it cannot ({error.strerror}). Set {HOME_VARIABLE} to a "
            f"folder that can."
        ) from None


def prepare_command(name: str) -> str:
    """Return the command that prepares a dataset."""
    if name in (*IMAGE_DATASETS, FOLDER):
        return f"orchestrator data prepare {name} --source DIR"
    return f"orchestrator data prepare {FOLDER} --source DIR --name {name}"


def absolute_uri(uri: str) -> str:
    """Return a URI, or the absolute path of a folder: what is noted must hold wherever it is read."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def check_dataset(name: str) -> str:
    """Return the name of a dataset that can be prepared.

    Raises:
        UserError: It is none; the message names the nearest.
    """
    known = (*IMAGE_DATASETS, FOLDER)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"Did you mean {nearest[0]}?" if nearest else f"For images and labels of your own: {FOLDER} --name {name}"
        )
        raise UserError(f"dataset must be one of {', '.join(known)}, but got {name!r}. {hint}")
    return name


def choose_name(dataset: str, name: str | None) -> str:
    """Return what a store is called: its dataset, or the ``--name`` of one's own.

    Raises:
        UserError: A name that another dataset has, or that no file can have.
    """
    if name is None or name == dataset:
        return dataset
    if dataset != FOLDER:
        raise UserError(f"--name must go with {FOLDER}, but got --name={name} with {dataset}. Leave it out.")
    if name in (EMBEDDED, *IMAGE_DATASETS):
        raise UserError(f"--name must be free, but got --name={name}, which is another dataset's. Choose another one.")
    return check_name(name)


def with_store(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings of a run with ``data.store`` filled in, if it is left open and the dataset is prepared."""
    name = str(settings["data.name"])
    if name == EMBEDDED or settings.get("data.store") is not None:
        return dict(settings)
    return {**settings, "data.store": find_store(name)}


def _pointer(name: str) -> Path:
    return data_dir("") / f"{name}.json"


def _read_pointer(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} must say where a store lies, but cannot be read. Delete it, and run `data prepare` again."
        ) from None


def require_room(uri: str, num_images: int, image_size: int, encoding: str) -> None:
    """Check that a store will fit on its disk before hours go into it; what lies there counts as room, other storages
    are not asked.

    Args:
        uri: Of the store.
        num_images: All phases.
        image_size: Side in px.
        encoding: ``raw`` or ``jpeg``; the size of a JPEG is that of photos, as measured.

    Raises:
        UserError: It will not fit.
    """
    if "://" in uri:
        return
    folder = Path(uri)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    needed, free = int(num_images * image_size**2 * _BYTES_PER_PX[encoding]), shutil.disk_usage(standing).free + there
    if needed > free:
        smaller = "--encoding jpeg takes a seventh of it. Or make room" if encoding == "raw" else "Make room"
        raise UserError(
            f"the store must have room for about {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB. "
            f"{smaller}, or name another "
            "place with --out."
        )
