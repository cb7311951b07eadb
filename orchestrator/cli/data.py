"""The verbs of ``data``: from a dataset's own folder to a store that trains, and what is in it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.options import EXIT_FAILURE, JsonOption
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table, program
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.datasets.listing import PreparedDataset
    from training.data.sources.annotations import Annotations
    from training.data.store.reader import Store

DEFAULT_IMAGE_SIZE = 448
LITERATURE_SEED = 1200
NUM_SHOWN = 12
NUM_PAIRS = 10

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="voc, coco, nuswide, cub or folder.", show_default=False)
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A prepared dataset; `data list` lists them.", show_default=False)
]
PictureOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The picture, a PNG; under the home by default.", show_default=False),
]
DrawSeedOption = Annotated[
    int, typer.Option("--draw-seed", metavar="S", min=0, max=2**32 - 1, help="Of the single positives.")
]
_SOURCE_HELP = "What the dataset's own site gives, unpacked: the dataset's folder, or the one that holds it."


def prepare(
    dataset: DatasetArgument,
    source: Annotated[Path, typer.Option("--source", metavar="DIR", help=_SOURCE_HELP, show_default=False)],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="URI", help="A folder, s3:// or gs://; data/NAME under the home by default."),
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="PX", min=8, max=4096, help="Side.")
    ] = DEFAULT_IMAGE_SIZE,
    keep_originals: Annotated[
        bool, typer.Option("--keep-originals", help="Keep the files too: data.augment_order=original.")
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding", metavar="raw|jpeg", help="raw by default: 0.6 MB an image; jpeg: 0.09, but decoded each time."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Threads; one per CPU by default.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what is corrupt or missing, and record it in the store.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of your own data, in place of folder.")
    ] = None,
) -> None:
    """Make a store that trains from a dataset's own folder.

    Labels are read and every image is decoded and resized once. Stopped or killed, the same command goes on where it
    was; run again when it is done, it does nothing.
    """
    from orchestrator.datasets.listing import describe_store
    from orchestrator.datasets.prepared import (
        absolute_uri,
        check_dataset,
        choose_name,
        remember_store,
        require_place,
        require_room,
    )
    from orchestrator.datasets.progress import showing_progress
    from orchestrator.durations import format_seconds
    from orchestrator.home import data_dir
    from orchestrator.uris import require_no_credentials
    from training.data.store.images import ENCODINGS
    from training.data.store.manifest import DEFAULT_ENCODING
    from training.data.store.writer import find_finished, write_store

    require_no_credentials("--out", out)
    encoding = encoding or DEFAULT_ENCODING
    if encoding not in ENCODINGS:
        raise UserError(f"--encoding must be one of {', '.join(ENCODINGS)}, but got --encoding={encoding}.")
    name = choose_name(check_dataset(dataset), name)
    uri = str(data_dir(name)) if out is None else absolute_uri(out)
    require_place(name, uri)
    started = time.monotonic()
    annotations = _read_source(dataset, source, images=True, called=name)
    num_images = sum(len(phase) for phase in annotations.phases.values())
    print_note(f"{name}: {annotations.layout}, {num_images:,} images, {len(annotations.classes)} classes")
    for note in annotations.notes:
        print_note(f"note: {note}")
    settings: dict[str, Any] = {"image_size": image_size, "keep_originals": keep_originals, "encoding": encoding}
    manifest = find_finished(annotations, uri, **settings)
    is_new = manifest is None
    if manifest is None:
        require_room(uri, num_images, image_size, encoding)
        try:
            with showing_progress(name) as show_progress:
                manifest = write_store(
                    annotations, uri, **settings, workers=workers, skip_bad=skip_bad, on_progress=show_progress
                )
        except KeyboardInterrupt:
            print_note("stopped: the same command goes on where it was")
            raise
    remember_store(name, uri)
    for line in describe_store(name, uri, manifest):
        print_line(line)
    print_note(
        f"prepared in {format_seconds(time.monotonic() - started)}"
        if is_new
        else "it was prepared already; nothing was done"
    )
    print_next(_next_steps(dataset, name))


def verify(
    dataset: DatasetArgument,
    source: Annotated[
        Path | None,
        typer.Option(
            "--source", metavar="DIR", help=f"{_SOURCE_HELP} Without it: what was prepared.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare a dataset's labels with the paper's Table 1.

    Needs the label files alone: of VOC ImageSets/Main, of COCO the two JSONs, no image. Exits with 1 if any figure
    differs or the files disagree with each other.
    """
    from orchestrator.datasets.prepared import check_dataset
    from orchestrator.datasets.report import make_report, read_prepared, render_report

    if source is None:
        store = _open(dataset)
        report = make_report(read_prepared(store), store.uri)
    else:
        report = make_report(_read_source(check_dataset(dataset), source, images=False))
    if json:
        print_json(report.to_json())
    else:
        for line in render_report(report):
            print_line(_printable(line))
    if not report.is_equal:
        raise typer.Exit(EXIT_FAILURE)


def stats(
    name: NameArgument, out: PictureOption = None, draw_seed: DrawSeedOption = LITERATURE_SEED, json: JsonOption = False
) -> None:
    """Count the labels of a prepared dataset.

    Positives per class, which classes occur together, images per split; and a picture, in which classes that have no
    learnable positive are marked (Fig. 1 of the IGNORE supplement).
    """
    from orchestrator.datasets.stats import count_labels, render_stats, table_of_classes

    store = _open(name)
    counted = count_labels(
        name,
        store.split("train", LITERATURE_SEED, draw_seed),
        store.split("val", LITERATURE_SEED, draw_seed),
        store.manifest.counts.get("test", 0),
    )
    path = _picture_path(name, "stats", out)
    with _writing(path):
        from orchestrator.datasets.pictures import draw_stats

        draw_stats(path, counted)
    if json:
        print_json({**counted.to_json(NUM_PAIRS), "draw_seed": draw_seed, "picture": path})
        return
    print_table(*table_of_classes(counted), right=range(1, 5))
    for line in render_stats(counted, NUM_PAIRS):
        print_line(line)
    print_line(f"picture: {path}")


def show(
    name: NameArgument,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index", metavar="I", help="Rows of the split: 7, or 3,8,20-25. Repeatable.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="train|val", help="Test images stay closed: promote opens them.")
    ] = "train",
    out: PictureOption = None,
    draw_seed: DrawSeedOption = LITERATURE_SEED,
) -> None:
    """Draw images of a prepared dataset with what is known of them.

    A sheet with observed, true and unknown labels, and boxes or parts where the source has them. Without --index: a
    dozen, spread evenly.
    """
    from orchestrator.datasets.sheet import make_pictures, read_rows, spread_rows

    which = _check_split(split)
    store = _open(name)
    data = store.split(which, LITERATURE_SEED, draw_seed)
    if not len(data):
        raise UserError(f"--split must hold images, but {split} of {name} has none. Try the other one.")
    rows = read_rows(index, len(data)) if index else spread_rows(len(data), NUM_SHOWN)
    pictures = make_pictures(store, data, *store.rows(which, LITERATURE_SEED), rows)
    path = _picture_path(name, split, out)
    with _writing(path):
        from orchestrator.datasets.pictures import draw_sheet

        draw_sheet(path, f"{name}, {split}: {len(rows)} of {len(data):,} images, draw seed {draw_seed}", pictures)
    for picture in pictures:
        print_line(f"{picture.title}: {picture.caption()}")
    print_line(f"picture: {path}")


def list_(json: JsonOption = False) -> None:
    """List what is prepared: where, how large, which hash."""
    from dataclasses import asdict

    from orchestrator.datasets.listing import list_prepared

    found = list_prepared()
    if json:
        print_json([asdict(entry) for entry in found])
        return
    if not found:
        print_line("Nothing is prepared yet. For example: orchestrator data prepare voc --source DIR")
        return
    headers = ["name", "images", "classes", "px", "encoding", "size", "data hash", "where", "state"]
    print_table(
        headers,
        [_cells(entry) for entry in found],
        right=(1, 2, 3, 5),
        wrapped=(7, 8),
        drop=(4, 2, 3),
        hint=f"{program()} data list --json",
    )


VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "prepare": (prepare, "orchestrator data prepare voc --source downloads/VOCdevkit"),
    "verify": (verify, "orchestrator data verify coco --source downloads/coco"),
    "stats": (stats, "orchestrator data stats cub --out cub.png"),
    "show": (show, "orchestrator data show voc --index 0,7,100-105"),
    "list": (list_, "orchestrator data list"),
}


def _read_source(dataset: str, source: Path, *, images: bool, called: str | None = None) -> Annotations:
    from training.data.sources.registry import read_source

    return read_source(dataset, source.expanduser(), images=images, called=called)


def _next_steps(dataset: str, name: str) -> dict[str, str]:
    # A template knows a folder by this name alone; any other is named in a copy of it.
    search = {f"sweep {name}": "search"} if name == dataset else {}
    check = {f"data verify {name}": "its labels beside the paper's Table 1"} if dataset != "folder" else {}
    return {
        **check,
        f"data show {name}": "look at images and their labels",
        f"data stats {name}": "count the labels",
        **search,
    }


def _printable(line: str) -> str:
    """Return a line in characters that the output has: a tick is more than a terminal of another century can show."""
    try:
        line.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return (
            line.replace("✓", "ok")
            .replace("✗", "DIFFERS")
            .encode(sys.stdout.encoding, "replace")
            .decode(sys.stdout.encoding)
        )
    return line


def _check_split(split: str) -> Literal["train", "val"]:
    splits: dict[str, Literal["train", "val"]] = {"train": "train", "val": "val"}
    if split not in splits:
        raise UserError(
            f"--split must be train or val, but got --split={split}. Test images stay closed: promote opens them."
        )
    return splits[split]


def _open(name: str) -> Store:
    from orchestrator.datasets.prepared import require_store
    from training.data.store.reader import open_store

    return open_store(require_store(name))


def _picture_path(name: str, what: str, out: Path | None) -> Path:
    from orchestrator.home import data_dir

    path = out or data_dir("") / f"{name}-{what}.png"
    if path.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png, but got --out={path}.")
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"--out must be a file that can be written, but got --out={path} ({error.strerror}). Name another one."
        ) from None


def _cells(entry: PreparedDataset) -> list[object]:
    from orchestrator.datasets.listing import format_bytes

    images = " + ".join(f"{count:,}" for count in entry.counts.values())
    size = None if entry.num_bytes is None else format_bytes(entry.num_bytes)
    state = f"{entry.state}, {entry.num_left_out} left out" if entry.num_left_out else entry.state
    hash_ = None if entry.data_hash is None else entry.data_hash[:12]
    return [entry.name, images, entry.num_classes, entry.image_size, entry.encoding, size, hash_, entry.uri, state]
