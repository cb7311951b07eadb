"""The verbs around a model: promote, evaluate, predict."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.options import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AddressOption,
    AllowChangedOption,
    JsonOption,
    ModelArgument,
    StealLeaseOption,
    SweepArgument,
)
from orchestrator.cli.output import (
    format_score,
    print_json,
    print_line,
    print_next,
    print_note,
    print_table,
    print_tracking_problem,
    program,
)
from orchestrator.durations import format_seconds

if TYPE_CHECKING:
    import pyarrow as pa

    from orchestrator.promotion.promote import PromotionOutcome
    from orchestrator.promotion.verdict import Decision
    from orchestrator.sweep.options import DriveOptions
    from training.inference.predictor import Predictor

TEST_MAP = "test/mAP"


def promote(
    sweep: SweepArgument = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="K", help="Final runs, each with a fresh training seed.")
    ] = 3,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="W", help="Ray Train workers of a run; all GPUs, or 1 on CPU, by default."),
    ] = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    keep_weights: Annotated[
        bool,
        typer.Option("--keep-weights", help="Keep the weights of all K runs on disk; else the first seed's alone."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a sweep's winner anew and decide on it.

    To full length, K times with fresh seeds. The mean of the selection metric decides against the champion: PROMOTE,
    KEEP, or REFUSE (exit code 1) where they cannot be compared. Then the test split is opened, once; it decides
    nothing.
    """
    from orchestrator.sweep_folder.index import find_sweep

    started = time.monotonic()
    found = find_sweep(sweep, kinds={"sweep"} if sweep is None else {"sweep", "train"})
    from orchestrator.promotion.promote import promote as promote_sweep
    from orchestrator.sweep.options import DriveOptions

    options = DriveOptions(address, allow_changed, steal_lease)
    outcome = promote_sweep(found, options, seeds=seeds, workers=workers, keep_weights=keep_weights, say=print_note)
    finish_promotion(outcome, options, started, json)


def finish_promotion(outcome: PromotionOutcome, options: DriveOptions, started: float, json: bool) -> None:
    """Print what came of a promotion and exit with its code."""
    plan, decision = outcome.plan, outcome.decision
    print_tracking_problem(plan.id, outcome.tracking_problem)
    if decision is None:
        print_note(f"{outcome.state.lower()}, {format_seconds(time.monotonic() - started)}")
        print_note(f"Resume with: {program()} {_resume_command(outcome)}{options.repeated_flags()}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if json:
        print_json(_describe(outcome, decision))
    else:
        _print_promotion(outcome, decision)
    print_note(
        f"{'read, nothing was left to do' if outcome.reused else 'finished'}, "
        f"{format_seconds(time.monotonic() - started)}"
    )
    if decision.verdict == "REFUSE":
        raise typer.Exit(EXIT_FAILURE)
    if outcome.version and not json:
        print_next(
            {
                f"evaluate {outcome.model}@champion": "on validation data",
                f"predict {outcome.model}@champion DIR": "score images",
            }
        )


def _resume_command(outcome: PromotionOutcome) -> str:
    plan = outcome.plan
    if outcome.keep_weights == plan.keep_weights:
        return f"resume {plan.id}"
    # This call asked for more than the plan says: only the same call again keeps the weights.
    return f"promote {plan.parent} --seeds {plan.num_trials} --workers {plan.resources.workers} --keep-weights"


def evaluate(
    model: ModelArgument,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="test is opened by promote alone.")
    ] = "val",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Probability above which a label counts as given.")
    ] = 0.5,
    absent_classes: Annotated[
        Literal["zero", "skip"],
        typer.Option("--absent-classes", help="What a class without positives is in means over classes."),
    ] = "zero",
    json: JsonOption = False,
) -> None:
    """Evaluate a promoted model.

    Scores are percent. For models trained with EM or EM + APL their authors recommend a threshold of 0.75.
    """
    from orchestrator.errors import UserError

    if split == "test":
        raise UserError(
            "--split must be val or train, but got test: it is opened once, by `orchestrator promote`, after its "
            "decision."
        )
    from orchestrator.writable import require_writable_cache
    from training.inference.evaluation import evaluate_split
    from training.preparation import is_prepared, prepare

    predictor = _load_predictor(model)
    if not is_prepared(predictor.config.data):
        require_writable_cache()
        print_note("making the data that the model was trained on, once ...")
        prepare(predictor.config.data)
    state = {"classes": list(predictor.classes), "model": predictor.weights}
    metrics = evaluate_split(predictor.config, state, split, threshold, absent_classes)
    if json:
        print_json(
            {
                "model": model,
                "split": split,
                "threshold": threshold,
                "absent_classes": absent_classes,
                "metrics": metrics,
            }
        )
        return
    print_table(["metric", "percent"], [(name, format_score(value)) for name, value in metrics.items()], right=[1])


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
        int, typer.Option("--batch-size", metavar="N", min=1, help="Images to score at a time.")
    ] = 64,
) -> None:
    """Score every image of a folder.

    Writes one row per image and one column of scores in 0-1 per class. Files that cannot be read are listed, and the
    exit code is then 1.
    """
    from orchestrator.errors import UserError
    from training.image_files import find_images

    _require_file(out)
    try:
        find_images(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    predictor = _load_predictor(model, device)
    found = predictor.predict_folder(folder, batch_size)
    if found.table.num_rows:
        _write(found.table, out)
        print_line(f"{out}: {found.table.num_rows} images, {len(predictor.classes)} classes")
        if found.file_column != "file":
            print_note(f"A class is called file, so the file names are in the column {found.file_column}.")
    for broken in found.broken:
        print_note(f"{folder / broken.file}: {broken.reason}")
    if found.broken:
        scored = "they are not among the scores" if found.table.num_rows else "nothing is written"
        print_note(f"error: every file must be a whole image, but {len(found.broken)} cannot be read; {scored}.")
        raise typer.Exit(EXIT_FAILURE)


def _require_file(out: Path) -> None:
    """Look whether the scores can be written, before a model is loaded and images are read."""
    from orchestrator.errors import UserError
    from orchestrator.writable import find_obstacle

    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv, but got --out={out}.")
    obstacle = None if out.parent.is_dir() else "there is no such folder"
    obstacle = obstacle or find_obstacle(out.parent) or ("it is a folder" if out.is_dir() else None)
    if obstacle is not None:
        raise UserError(f"--out must be a file that can be written, but got --out={out} ({obstacle}).")


def _load_predictor(model: str, device: Literal["auto", "cpu", "cuda"] = "cpu") -> Predictor:
    from orchestrator.errors import UserError
    from orchestrator.home import require_home
    from orchestrator.tracking.registry import find_model
    from training.inference.predictor import Predictor, choose_device

    require_home()
    folder = find_model(model)
    try:
        return Predictor.load(folder, choose_device(device))
    except ValueError as error:  # not a model folder, or no GPU
        raise UserError(f"{error}.") from None


def _write(table: pa.Table, path: Path) -> None:
    from orchestrator.errors import UserError

    try:
        if path.suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(table, path)
        else:
            from pyarrow import parquet

            parquet.write_table(table, path)
    except OSError as error:
        raise UserError(f"--out must be a file that can be written, but got --out={path} ({error}).") from None


def _describe(outcome: PromotionOutcome, decision: Decision) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "promotion": plan.id,
        "sweep": plan.parent,
        "metric": plan.protocol.metric,
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "verdict": str(decision.verdict),
        "reason": decision.reason,
        "marks": list(decision.marks),
        "model": outcome.model,
        "version": outcome.version,
        "config_file": str(outcome.config_file),
        "runs": [
            {
                "run": record.trial,
                "seed": record.params["loop.seed"],
                "state": str(record.state),
                "value": record.value(plan.protocol),
                "epoch": record.chosen_epoch(plan.protocol),
                "test": dict(outcome.test.get(record.trial, {})),
            }
            for record in outcome.records
        ],
    }


def _print_promotion(outcome: PromotionOutcome, decision: Decision) -> None:
    plan, described = outcome.plan, _describe(outcome, decision)
    print_line(f"{plan.id}: final runs of the winner of {plan.parent}, in percent, selected by {plan.protocol}")
    rows = [
        (
            run["run"],
            run["seed"],
            run["state"],
            format_score(run["value"]),
            run["epoch"],
            format_score(run["test"].get(TEST_MAP)),
        )
        for run in described["runs"]
    ]
    print_table(["run", "seed", "state", plan.protocol.metric, "epoch", TEST_MAP], rows, right=[0, 1, 3, 4, 5])
    print_line(f"{decision.verdict}: {decision.reason}")
    for mark in decision.marks:
        print_line(f"  compared although {mark}")
    scores = [figures[TEST_MAP] for figures in outcome.test.values() if TEST_MAP in figures]
    if len(scores) > 1:
        spread = f"{statistics.fmean(scores):.2f} +- {statistics.stdev(scores):.2f}"
        print_line(f"{TEST_MAP}: {spread} over {len(scores)} seeds; opened after the decision, which it had no part in")
    if outcome.version:
        print_line(f"registered: {outcome.version}, the run of the first seed, now {outcome.model}@champion")
    print_line(f"settings of the winner, to commit: {outcome.config_file}")
