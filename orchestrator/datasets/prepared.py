"""Find prepared datasets by name: in ``<home>/data/<name>/``, or where a pointer ``<home>/data/<name>.json`` says.

The home is the current folder by default, so ``data/`` often holds other people's files too. Stores and pointers are
recognised by their content; everything else is ignored and never overwritten or deleted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UserError
from orchestrator.home import HOME_VARIABLE, check_name, data_dir, datasets_dir, home
from orchestrator.sizes import format_sizes
from training.config.spelling import nearest_word
from training.data.dataset_names import EMBEDDED, FOLDER, IMAGE_DATASETS, prepare_command
from training.data.store.file_names import MANIFEST, holds_store
from training.files import write_whole
from training.path_names import is_path_name

if TYPE_CHECKING:
    from training.config.run import Scalar

# A pointer holds one URI. Without this limit, listing a folder would parse all of COCO's annotations.
_LARGEST_POINTER_BYTES = 64 << 10
# Three colours. Photos as JPEG of quality 95 took 0.089 MB at 448 px, as measured.
_BYTES_PER_PX = {"raw": 3.0, "jpeg": 0.45}


def find_store(name: str) -> str | None:
    """Return the URI of a dataset's store, or None if none was prepared from this home."""
    # A word of the command line may be the path of a file, which is no dataset.
    if not is_path_name(name):
        return None
    pointed, folder = _read_pointer(_pointer(name)), data_dir(name)
    at_home = str(folder) if holds_store(folder) and (folder / MANIFEST).is_file() else None
    # A store that was moved into the home, with a pointer that still has its old place.
    return at_home if pointed is None or (at_home and _is_gone(pointed)) else pointed


def locate_store(name: str, store: str | None) -> str | None:
    """Return where a store is now that was at ``store`` when a plan was made.

    A home may be moved or copied with its data. The data hash is compared with the plan's when the store is opened.
    """
    if store is None or not _is_gone(store):
        return store
    return find_store(name) or store


def _is_gone(uri: str) -> bool:
    # From here, a bucket that is gone looks the same as one that does not answer.
    return "://" not in uri and not (Path(uri).expanduser() / MANIFEST).exists()


def require_store(name: str) -> str:
    """Return the URI of a dataset's store.

    Raises:
        UserError: There is no store; the message names the nearest one, or the command that prepares it.
    """
    found = find_store(name)
    if found is not None:
        return found
    if name == EMBEDDED:
        raise UserError(
            "digits needs no store: it is generated when a run first needs it. Try: orchestrator sweep digits"
        )
    require_known_name(name)
    stores = list_stores()
    if name in stores:
        raise UserError(
            f"The store of {name} in {stores[name]} is not finished: `data prepare` was stopped or is still running. "
            f"Run the same command again: it continues where it stopped."
        )
    raise UserError(
        f"No store of {name} under {datasets_dir()}{_describe_ignored(name)}. Prepare it: {prepare_command(name)}"
    )


def require_known_name(name: str) -> None:
    """Refuse the name of a dataset that looks misspelt: it is not prepared, and much like one that is, or that ships.

    Raises:
        UserError: It does; the message names the nearest one.
    """
    # Dataset names are included: for a typo in one that is not prepared yet, the message should suggest it.
    known = [*list_stores(), EMBEDDED, *IMAGE_DATASETS, FOLDER]
    nearest = None if name in known else nearest_word(name, known)
    if nearest:
        raise UserError(
            f"No prepared dataset is called {name!r}. Did you mean {nearest}? `orchestrator data list` lists them."
        )


def list_stores() -> dict[str, str]:
    """Return name -> URI of everything that was prepared from this home, finished or not, by name.

    Raises:
        UserError: The folder cannot be read.
    """
    folders = {path.name: str(path) for path in _entries() if path.is_dir() and holds_store(path)}
    pointed = {
        path.stem: uri for path in _entries() if path.suffix == ".json" and (uri := _read_pointer(path)) is not None
    }
    # Unfinished ones too, which find_store does not return. A folder with another kind of name cannot be a dataset.
    named = sorted(filter(is_path_name, folders | pointed))
    return {name: find_store(name) or folders[name] for name in named}


def require_place(name: str, uri: str) -> None:
    """Check, before hours of work go into it, that a store can be written to a place and later found by its name.

    Raises:
        UserError: A file or folder of another program is in the way.
    """
    if "://" not in uri:
        _require_free_folder(Path(uri))
    if datasets_dir().exists() and not datasets_dir().is_dir():
        raise UserError(
            f"{datasets_dir()} is a file, but datasets are kept in a folder of that name. Set {HOME_VARIABLE} to "
            f"another folder."
        )
    pointer = _pointer(name)
    if uri != str(data_dir(name)) and pointer.exists() and _read_pointer(pointer) is None:
        raise UserError(
            f"{pointer} belongs to another program, but the location of the store would be recorded there. Drop "
            f"--out, or set {HOME_VARIABLE} to another "
            f"folder{'' if name in IMAGE_DATASETS else ', or choose another --name'}."
        )


def remember_store(name: str, uri: str) -> None:
    """Record where a dataset's store is, unless it is in its usual folder in this home.

    Raises:
        UserError: The home cannot be written, or something that is not ours is in the way.
    """
    require_place(name, uri)
    pointer = _pointer(name)
    try:
        if uri == str(data_dir(name)):
            if _read_pointer(pointer) is not None:
                pointer.unlink()
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        # Relative to the home if it is inside, so that the home can be moved.
        inside = "://" not in uri and Path(uri).is_relative_to(home())
        written = str(Path(uri).relative_to(home())) if inside else uri
        write_whole(pointer, json.dumps({"uri": written}) + "\n")
    except OSError as error:
        raise UserError(
            f"Cannot write {pointer} ({error.strerror}). Set {HOME_VARIABLE} to a folder that you may write to."
        ) from None


def check_dataset(name: str) -> str:
    """Return the name of a dataset that can be prepared.

    Raises:
        UserError: There is no such dataset; the message names the nearest.
    """
    known = (*IMAGE_DATASETS, FOLDER)
    if name == EMBEDDED:
        raise UserError(f"{name} is built in and needs no preparation: orchestrator sweep {name}")
    if name not in known:
        nearest = nearest_word(name, known)
        hint = f"Did you mean {nearest}?" if nearest else f"For your own images and labels: {FOLDER} --name {name}"
        raise UserError(f"DATASET must be one of {', '.join(known)}, but got {name!r}. {hint}")
    return name


def choose_name(dataset: str, name: str | None) -> str:
    """Return the name of a store: that of its dataset, or the ``--name`` of your own data.

    Raises:
        UserError: The name belongs to another dataset, or cannot name a file.
    """
    if name is None or name == dataset:
        return dataset
    if dataset != FOLDER:
        raise UserError(f"--name goes with {FOLDER} only, but got --name={name} with {dataset}. Drop it.")
    if name in (EMBEDDED, *IMAGE_DATASETS):
        raise UserError(f"--name={name} is the name of another dataset. Choose another one.")
    return check_name(name)


def with_store(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings of a run, with ``data.store`` filled in if it is unset and the dataset is prepared."""
    name = str(settings["data.name"])
    if name == EMBEDDED or settings.get("data.store") is not None:
        return dict(settings)
    return {**settings, "data.store": find_store(name)}


def require_room(uri: str, num_images: int, image_size: int, encoding: str) -> None:
    """Check that a store will fit on its disk before hours of work go into it; remote storage is not checked.

    Args:
        uri: Location of the store; files that are already there count as free space.
        num_images: Images of all phases.
        image_size: Side in px.
        encoding: ``raw`` or ``jpeg``; the size of a JPEG is that of photos, as measured.

    Raises:
        UserError: It will not fit.
    """
    if "://" in uri:
        return
    folder = Path(uri)
    # A store that is continued or replaced reuses its own space.
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    # disk_usage needs a folder that exists.
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    needed, free = int(num_images * image_size**2 * _BYTES_PER_PX[encoding]), shutil.disk_usage(standing).free + there
    if needed > free:
        shown_needed, shown_free = format_sizes(needed, free)
        smaller = "Use --encoding jpeg, which takes a seventh, make room" if encoding == "raw" else "Make room"
        raise UserError(
            f"The store needs about {shown_needed}, but {folder} has room for {shown_free}. {smaller}, "
            f"or name another place with --out."
        )


def _entries() -> list[Path]:
    """Return the content of the data folder; empty if it is missing or is a file."""
    folder = datasets_dir()
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"Cannot read {folder} ({error.strerror}). Ask its owner, or set {HOME_VARIABLE} to another folder."
        ) from None


def _pointer(name: str) -> Path:
    return data_dir(name).with_name(f"{name}.json")


def _read_pointer(path: Path) -> str | None:
    """Return the URI in a pointer; None if it is missing, unreadable or not exactly what remember_store writes."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_POINTER_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_pointer = isinstance(content, dict) and content.keys() == {"uri"} and isinstance(content["uri"], str)
    if not is_pointer:
        return None
    uri: str = content["uri"]
    return uri if "://" in uri else str(home() / uri)


def _describe_ignored(name: str) -> str:
    """Name files under a dataset's name that are not its store: the user may have mistaken them for it."""
    ignored = [str(path) for path in (data_dir(name), _pointer(name)) if path.exists()]
    return f" ({' and '.join(ignored)}: not a store, ignored)" if ignored else ""


def _require_free_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out must be a folder, but {folder} is a file. Name another one with --out.")
    if (folder / MANIFEST).exists() and not holds_store(folder):
        raise UserError(
            f"{folder / MANIFEST} belongs to another program, and a store needs a file with that name. "
            f"Name another folder with --out."
        )
