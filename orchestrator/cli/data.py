"""The verbs of ``data``: prepare, verify, stats, show and list; score has a module of its own."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.data_score import score
from orchestrator.cli.options import EXIT_FAILURE, JsonOption
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table
from orchestrator.errors import UserError
from orchestrator.program import program
from orchestrator.terminal_text import one_line
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.datasets.listing import PreparedDataset
    from training.data.store.reader import Store

DEFAULT_IMAGE_SIZE = 448
LITERATURE_SEED = 1200
NUM_SHOWN = 12
NUM_PAIRS = 10
# The same as orchestrator.datasets.pictures.FORMATS, without its import of Matplotlib.
_PICTURE_FORMATS = (".png", ".pdf", ".svg")

# Heavy modules are imported inside the verbs: `--help` must not wait for torch.
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="voc, coco, nuswide, cub, l48 or folder.", show_default=False)
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A prepared dataset; `data list` lists them.", show_default=False)
]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="File to write, ending in .png, .pdf or .svg; by default a PNG in data/ under the home.",
        show_default=False,
    ),
]
DrawSeedOption = Annotated[
    int, typer.Option("--draw-seed", metavar="S", min=0, max=2**32 - 1, help="Seed of the single positives.")
]
_SOURCE_HELP = "The unpacked download: the dataset's own folder, or the folder that holds it."


def prepare(
    dataset: DatasetArgument,
    source: Annotated[Path, typer.Option("--source", metavar="DIR", help=_SOURCE_HELP, show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="URI", help="Folder, s3:// or gs:// URI of the store; by default HOME/data/NAME."
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="PX", min=8, max=4096, help="Side of the stored square images.")
    ] = DEFAULT_IMAGE_SIZE,
    keep_originals: Annotated[
        bool,
        typer.Option("--keep-originals", help="Keep original files too, for data.augment_order=original."),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            metavar="raw|jpeg",
            help="raw (default): 0.6 MB per image. jpeg: 0.09 MB, decoded at each read.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Number of threads; by default one per CPU.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out corrupt or missing images, and record them in the store.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name for your own data, instead of folder.")
    ] = None,
) -> None:
    """Prepare a dataset for training.

    Reads the labels, and decodes and resizes every image once. If it is stopped or killed, run the same command again
    to continue; on a finished store it does nothing.
    """
    from orchestrator.datasets.listing import describe_store
    from orchestrator.datasets.preparing import PrepareRequest, prepare_dataset
    from orchestrator.durations import format_seconds

    started = time.monotonic()
    prepared = prepare_dataset(
        PrepareRequest(dataset, source, out, name, image_size, encoding, keep_originals, workers, skip_bad), print_note
    )
    for line in describe_store(prepared.name, prepared.uri, prepared.manifest):
        print_line(line)
    took = format_seconds(time.monotonic() - started)
    print_note(f"prepared in {took}" if prepared.is_new else "already prepared; nothing was done")
    print_next(_next_steps(dataset, prepared.name))


def verify(
    dataset: DatasetArgument,
    source: Annotated[
        Path | None,
        typer.Option(
            "--source", metavar="DIR", help=f"{_SOURCE_HELP} Default: the prepared store.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare a dataset's labels with the paper's Table 1.

    Needs label files only, no images: ImageSets/Main of VOC, the two JSONs of COCO. Exits with 1 if any figure differs
    or the files contradict each other.
    """
    from orchestrator.datasets.prepared import check_dataset
    from orchestrator.datasets.verification import read_prepared, render_verification, verify_labels
    from training.data.sources.registry import read_source

    if source is None:
        store = _open(dataset)
        verification = verify_labels(read_prepared(store), store.uri)
    else:
        verification = verify_labels(read_source(check_dataset(dataset), source.expanduser(), images=False))
    if json:
        print_json(verification.to_json())
    else:
        for line in render_verification(verification):
            print_line(_printable(line))
    if not verification.is_equal:
        raise typer.Exit(EXIT_FAILURE)


def stats(
    name: NameArgument, out: PictureOption = None, draw_seed: DrawSeedOption = LITERATURE_SEED, json: JsonOption = False
) -> None:
    """Count the labels of a prepared dataset.

    Prints positives and known negatives per class, classes that occur together and images per split, and plots them as
    in Fig. 1 of the IGNORE supplement; classes without a learnable positive are marked.
    """
    from orchestrator.datasets.stats import count_labels, render_stats, table_of_classes
    from training.data.store.known_labels import all_known

    store = _open(name)
    known = all_known(store.labels("train"))
    counted = count_labels(
        name,
        store.split("train", LITERATURE_SEED, draw_seed, known),
        store.split("val", LITERATURE_SEED, draw_seed, known),
        store.manifest.counts.get("test", 0),
    )
    path = _picture_path(name, "stats", out)
    with _writing(path):
        from orchestrator.datasets.pictures import draw_stats

        unwritten = draw_stats(path, counted)
    _note_unwritten(unwritten)
    if json:
        print_json({**counted.to_json(NUM_PAIRS), "draw_seed": draw_seed, "picture": path})
        return
    headers, rows = table_of_classes(counted)
    print_table(headers, rows, right=range(1, len(headers)))
    for line in render_stats(counted, NUM_PAIRS):
        print_line(line)
    print_line(f"picture: {shlex.quote(str(path))}")


def show(
    name: NameArgument,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="I",
            help="Rows such as 7 or 3,8,20-25; repeatable. By default, a dozen rows.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="train|val", help="Only promote opens test images.")
    ] = "train",
    out: PictureOption = None,
    draw_seed: DrawSeedOption = LITERATURE_SEED,
) -> None:
    """Draw images of a prepared dataset with their labels.

    Draws a sheet with the labels that are observed, known to be negative, true and unknown, and with boxes or parts if
    the source has them.
    """
    from orchestrator.datasets.sheet import make_pictures, read_rows, spread_rows
    from training.data.store.known_labels import all_known

    which = _check_split(split)
    store = _open(name)
    known = all_known(store.labels("train"))
    data = store.split(which, LITERATURE_SEED, draw_seed, known)
    if not len(data):
        raise UserError(f"The {split} split of {name} has no images. Try the other one with --split.")
    rows = read_rows(index, len(data)) if index else spread_rows(len(data), NUM_SHOWN)
    pictures = make_pictures(store, data, *store.rows(which, LITERATURE_SEED, known), rows)
    path = _picture_path(name, split, out)
    with _writing(path):
        from orchestrator.datasets.pictures import draw_sheet

        heading = f"{name}, {split}: {len(rows)} of {counted(len(data), 'image')}, draw seed {draw_seed}"
        unwritten = draw_sheet(path, heading, pictures, data.classes)
    _note_unwritten(unwritten)
    for picture in pictures:
        print_line(f"{one_line(picture.title)}: {picture.caption()}")
    print_line(f"picture: {shlex.quote(str(path))}")


def list_(json: JsonOption = False) -> None:
    """List prepared datasets with their location, size and hash."""
    from dataclasses import asdict

    from orchestrator.datasets.listing import list_prepared
    from orchestrator.home import datasets_dir

    found = list_prepared()
    if json:
        print_json([asdict(entry) for entry in found])
        return
    if not found:
        print_line(
            f"No prepared datasets under {datasets_dir()}. Prepare one: orchestrator data prepare voc --source DIR"
        )
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
    "score": (score, "orchestrator data score voc --model clip/ViT-B-16"),
}


def _next_steps(dataset: str, name: str) -> dict[str, str]:
    look = {f"data show {name}": "look at images and their labels", f"data stats {name}": "count the labels"}
    if dataset == "folder":
        return {
            **look,
            f"spaces folder --data {name} > {name}.yaml": "a search space for it, to read and change",
            f"sweep {name}.yaml": "search",
        }
    check = {f"data verify {name}": "compare its labels with the paper's Table 1"}
    return {**check, **look, f"sweep {name}": "search"}


def _printable(line: str) -> str:
    """Return a line with words for ticks and crosses where the output's encoding has neither."""
    try:
        "✓✗".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return line.replace("✓", "ok").replace("✗", "DIFFERS")
    return line


def _check_split(split: str) -> Literal["train", "val"]:
    splits: dict[str, Literal["train", "val"]] = {"train": "train", "val": "val"}
    if split not in splits:
        raise UserError(f"--split must be train or val, but got --split={split}. Only promote opens test images.")
    return splits[split]


def _open(name: str) -> Store:
    from orchestrator.datasets.prepared import require_store
    from training.data.store.reader import open_store

    return open_store(require_store(name))


def _picture_path(name: str, what: str, out: Path | None) -> Path:
    from orchestrator.home import datasets_dir

    path = out or datasets_dir() / f"{name}-{what}.png"
    if path.suffix.lower() not in _PICTURE_FORMATS:
        raise UserError(f"--out must end in {' or '.join(_PICTURE_FORMATS)}, but got --out={path}.")
    return path


def _note_unwritten(unwritten: str | None) -> None:
    if unwritten:
        print_note(unwritten)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Name another file with --out.") from None


def _cells(entry: PreparedDataset) -> list[object]:
    from orchestrator.datasets.listing import format_bytes

    images = " + ".join(f"{count:,}" for count in entry.counts.values())
    size = None if entry.num_bytes is None else format_bytes(entry.num_bytes)
    state = f"{entry.state}, {entry.num_left_out} left out" if entry.num_left_out else entry.state
    hash_ = None if entry.data_hash is None else entry.data_hash[:12]
    return [entry.name, images, entry.num_classes, entry.image_size, entry.encoding, size, hash_, entry.uri, state]
