"""Prepare a dataset: read its source, write its store, and remember where the store is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.datasets.known_counts import count_known
from orchestrator.datasets.prepared import (
    check_dataset,
    choose_name,
    remember_store,
    require_place,
    require_room,
)
from orchestrator.datasets.progress import showing_progress
from orchestrator.errors import UserError
from orchestrator.home import data_dir
from orchestrator.uris import absolute_uri, require_safe_uri
from training.counts import counted
from training.data.dataset_names import IMAGE_DATASETS
from training.data.sources.annotations import Annotations, Phase, join_negatives, some
from training.data.sources.registry import read_source
from training.data.store.bad_source import require_trusted
from training.data.store.images import ENCODINGS
from training.data.store.manifest import DEFAULT_ENCODING, Manifest
from training.data.store.writer import find_finished, write_store


@dataclass(frozen=True)
class PrepareRequest:
    """What the user asked `data prepare` for.

    Attributes:
        dataset: voc, coco, nuswide, cub, l48 or folder.
        source: The dataset's folder, or one above it.
        out: A folder or URI for the store; None is ``<home>/data/<name>``.
        name: A name for your own data; None is the dataset's.
        image_size: Side of the stored images in px.
        encoding: ``raw`` or ``jpeg``; None is the default.
        keep_originals: Whether to keep the original files too.
        workers: Threads; None is one per CPU.
        skip_bad: Whether to leave out images with faults.
    """

    dataset: str
    source: Path
    out: str | None
    name: str | None
    image_size: int
    encoding: str | None
    keep_originals: bool
    workers: int | None
    skip_bad: bool


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Attributes:
        name: Its name here.
        uri: Location of its store.
        manifest: Manifest of its store.
        is_new: Whether there was anything to do.
    """

    name: str
    uri: str
    manifest: Manifest
    is_new: bool


def prepare_dataset(request: PrepareRequest, note: Callable[[str], None]) -> Prepared:
    """Prepare a dataset; a finished store is left alone, an unfinished one is completed.

    Args:
        request: What to prepare.
        note: Called with each line that the user should see during the work.

    Raises:
        UserError, ConfigError: The request is invalid, or something is in the way of the store.
        StoreError: The source has faults, or the store cannot be written.
    """
    require_safe_uri("--out", request.out)
    settings = _settings(request)
    name = choose_name(check_dataset(request.dataset), request.name)
    uri = str(data_dir(name)) if request.out is None else absolute_uri(request.out)
    require_place(name, uri)  # checked before the source is read: COCO's labels alone take half a minute
    annotations = read_source(request.dataset, request.source.expanduser(), images=True, called=name)
    require_trusted(annotations)
    num_images = sum(len(phase) for phase in annotations.phases.values())
    note(f"{name}: {annotations.layout}, {num_images:,} images, {_describe_classes(annotations)}")
    _note_known(annotations.phases.get("train"), note)
    # With faults, most of what there is to note follows from them; it comes once they are left out.
    if not annotations.faults:
        _show_notes(annotations, note)
    manifest = find_finished(annotations, uri, **settings)
    is_new = manifest is None
    if manifest is None:
        require_room(uri, num_images, request.image_size, settings["encoding"])
        manifest = _write(request, name, annotations, uri, settings, note)
    if annotations.faults:
        _show_notes(annotations, note)
    # Of a finished store too: it may have been moved here, and then only this call knows its place.
    remember_store(name, uri)
    return Prepared(name, uri, manifest, is_new)


def _describe_classes(annotations: Annotations) -> str:
    names = f" ({some(annotations.classes)})" if annotations.name not in IMAGE_DATASETS else ""
    return counted(len(annotations.classes), "class") + names


def _note_known(train: Phase | None, note: Callable[[str], None]) -> None:
    """Say what is known of the training labels, where the source gives more than one drawn positive per image."""
    if train is not None and train.observed is not None:
        known = count_known(train.observed, join_negatives(train.negatives))
        note(f"labels of the official train set: {known.describe()}")


def _show_notes(annotations: Annotations, note: Callable[[str], None]) -> None:
    for text in annotations.notes:
        note(f"note: {text}")


def _settings(request: PrepareRequest) -> dict[str, Any]:
    encoding = request.encoding or DEFAULT_ENCODING
    if encoding not in ENCODINGS:
        raise UserError(f"--encoding must be one of {', '.join(ENCODINGS)}, but got --encoding={encoding}.")
    return {"image_size": request.image_size, "keep_originals": request.keep_originals, "encoding": encoding}


def _write(
    request: PrepareRequest,
    name: str,
    annotations: Annotations,
    uri: str,
    settings: dict[str, Any],
    note: Callable[[str], None],
) -> Manifest:
    try:
        with showing_progress(name) as show_progress:
            return write_store(
                annotations,
                uri,
                **settings,
                workers=request.workers,
                skip_bad=request.skip_bad,
                on_progress=show_progress,
            )
    except KeyboardInterrupt:
        note("stopped: run the same command again to continue")
        raise
