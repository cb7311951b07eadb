"""The verbs that use a promoted model: evaluate, predict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.options import EXIT_FAILURE, JsonOption, ModelArgument
from orchestrator.cli.output import format_score, print_json, print_line, print_note, print_table
from orchestrator.program import program
from training.counts import counted

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate(
    model: ModelArgument,
    split: Annotated[Literal["train", "val", "test"], typer.Option("--split", help="Only promote opens test.")] = "val",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Probability above which a label counts as predicted.")
    ] = 0.5,
    absent_classes: Annotated[
        Literal["zero", "skip"],
        typer.Option("--absent-classes", help="How a class without positives counts in means over classes."),
    ] = "zero",
    json: JsonOption = False,
) -> None:
    """Evaluate a promoted model.

    Scores are in percent. For models trained with EM or EM + APL, their authors recommend a threshold of 0.75.
    """
    from orchestrator.api import load_model
    from orchestrator.datasets.prepared import locate_store
    from orchestrator.errors import UserError

    if split == "test":
        raise UserError(
            f"--split must be val or train, but got test. Only `{program()} promote` opens the test split: "
            "once, after its decision."
        )
    from orchestrator.results.opened_test import count_test_openings
    from orchestrator.writable import require_writable_cache
    from training.data.registry import dataset_info
    from training.inference.evaluation import evaluate_split
    from training.preparation import is_prepared, prepare

    predictor = load_model(model, "cpu")
    data = predictor.config.data
    config = predictor.config.with_params({"data.store": locate_store(data.name, data.store)})
    # If this is not the home of the training, the digit scenes may not have been made here yet.
    if not is_prepared(predictor.config.data):
        require_writable_cache()
        print_note("making the data that the model was trained on; this happens once ...")
        prepare(predictor.config.data)
    # Evaluation takes a model in the form in which a training run keeps it.
    state = {"classes": list(predictor.classes), "model": predictor.weights}
    metrics = evaluate_split(config, state, split, threshold, absent_classes)
    openings = count_test_openings(dataset_info(config.data).data_hash)
    if json:
        print_json(
            {
                "model": model,
                "split": split,
                "threshold": threshold,
                "absent_classes": absent_classes,
                "metrics": metrics,
                "test_openings": openings.num,
            }
        )
        return
    print_table(["metric", "percent"], [(name, format_score(value)) for name, value in metrics.items()], right=[1])
    print_line(str(openings))


def predict(
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .parquet or .csv file to write.")] = Path(
        "scores.parquet"
    ),
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option("--device", help="Where to compute; auto uses a GPU if there is one."),
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Number of images to score at a time.")
    ] = 64,
) -> None:
    """Score every image in a folder.

    Writes one row per image, with one score between 0 and 1 per class. Files that cannot be read are listed; the exit
    code is then 1.
    """
    from orchestrator.api import load_model
    from orchestrator.errors import UserError
    from training.image_files import find_images, utf8_name

    _require_file(out)
    try:
        # Checked first, so that an empty folder does not cost the time to load a model.
        names = [file.relative_to(folder) for file in find_images(folder)]
    except ValueError as error:
        raise UserError(str(error)) from None
    if num_odd := sum(utf8_name(name) != str(name) for name in names):
        which = "file name is" if num_odd == 1 else "file names are"
        print_note(f"note: {num_odd} {which} not UTF-8. The table shows bytes that are not as codes such as \\xff.")
    predictor = load_model(model, device)
    found = predictor.predict_folder(folder, batch_size)
    if found.table.num_rows:
        _write(found.table, out)
        print_line(
            f"{shlex.quote(str(out))}: {counted(found.table.num_rows, 'image')}, "
            f"{counted(len(predictor.classes), 'class')}"
        )
        if found.file_column != "file":
            print_note(f"A class is called file, so the file names are in the column {found.file_column}.")
    # After the scores are written: one bad file must not lose the others.
    for broken in found.broken:
        print_note(f"{folder / broken.file}: {broken.reason}")
    if found.broken:
        num = len(found.broken)
        scored = "The scores do not include them." if found.table.num_rows else "Nothing was written."
        print_note(f"error: Cannot read {counted(num, 'file')} as images. {scored}")
        raise typer.Exit(EXIT_FAILURE)


def _require_file(out: Path) -> None:
    """Check that the scores can be written, before spending time on a model and images."""
    from orchestrator.errors import UserError
    from orchestrator.writable import find_obstacle

    if out.suffix.lower() not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv, but got --out={out}.")
    obstacle = None if out.parent.is_dir() else "its folder does not exist"
    obstacle = obstacle or find_obstacle(out.parent) or ("that is a folder" if out.is_dir() else None)
    if obstacle is not None:
        raise UserError(f"Cannot write --out={out}: {obstacle}.")


def _write(table: pa.Table, path: Path) -> None:
    from orchestrator.errors import UserError

    try:
        with path.open("wb") as file:  # Arrow would take the name for UTF-8
            if path.suffix.lower() == ".csv":
                from pyarrow import csv

                csv.write_csv(_guard(table), file)
            else:
                from pyarrow import parquet

                parquet.write_table(table, file)
    except OSError as error:
        raise UserError(f"Cannot write --out={path}: {error}.") from None


def _guard(table: pa.Table) -> pa.Table:
    """Return the table for a CSV: without names that a spreadsheet would run as formulas."""
    import pyarrow as pa

    from training.csv_cells import guard_cell

    files = pa.array([guard_cell(name) for name in table.column(0).to_pylist()], pa.string())
    return table.set_column(0, table.column_names[0], files).rename_columns(list(map(guard_cell, table.column_names)))
