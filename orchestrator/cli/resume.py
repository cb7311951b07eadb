"""The verbs that continue a sweep: resume, extend."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.jobs import submitted
from orchestrator.cli.options import (
    AddressOption,
    AllowChangedOption,
    FormerBackupOption,
    JsonOption,
    StealLeaseOption,
    SweepArgument,
    WorkArgument,
    check_places,
)
from orchestrator.cli.outcome import finish_sweep
from orchestrator.cli.output import print_note
from orchestrator.cli.promote import finish_promotion
from orchestrator.cli.tracking import warn_of_mlflow
from orchestrator.errors import UserError
from orchestrator.program import program

MLFLOW = "mlflow"
"""The word for MLflow in ``--from``."""


def resume(
    context: typer.Context,
    sweep: WorkArgument = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    backup: Annotated[
        str | None,
        typer.Option(
            "--backup",
            metavar="URI",
            help="Copy the journal there from now on; by default to the previous place. Not for a promotion.",
        ),
    ] = None,
    mirror: FormerBackupOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URI",
            help="Continue from a backup, in a home that lacks the sweep or has lost its journal. `mlflow` rebuilds a "
            "lost journal from MLflow.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Continue what was stopped or killed.

    A sweep, a training, an ablation, a promotion or a benchmark. Finished epochs are not run again.
    """
    if submitted(context, address):
        return
    from orchestrator.results.suite_record import find_suite
    from orchestrator.sweep_folder.index import find_sweep

    started = time.monotonic()
    backup = check_places(None, backup, mirror)
    if (suite := find_suite(sweep)) is not None:
        from orchestrator.cli.benchmark import resume_benchmark
        from orchestrator.sweep.options import DriveOptions

        if backup is not None or source is not None:
            raise UserError(f"A benchmark has no backup, and {suite} is one. Leave --backup and --from out.")
        resume_benchmark(suite, DriveOptions(address, allow_changed, steal_lease), started, json=json)
        return
    is_restored = source is not None
    if source is None or source == MLFLOW:
        found = find_sweep(sweep)
    else:
        from orchestrator.sweep_folder.restore import restore_sweep
        from orchestrator.uris import absolute_uri

        found, copied = restore_sweep(absolute_uri(source), sweep, steal_lease=steal_lease, say=print_note)
        # Keep copying to the place that the sweep was restored from, unless the user names another one.
        backup = backup or copied
    from orchestrator.sweep.driver import resume as resume_sweep
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.index import load_plan, repair_plan

    if (repaired := repair_plan(found)) is not None:
        print_note(f"note: {repaired} was missing or damaged; it was written again from the journal.")
    if source == MLFLOW:
        from orchestrator.tracking.rebuild import rebuild_journal

        print_note(f"note: rebuilt the journal of {found} from MLflow: {rebuild_journal(found)} epochs.")
    options = DriveOptions(address, allow_changed, steal_lease, backup, allow_gaps=is_restored)
    if load_plan(found).kind in ("promote", "race"):
        # The registry and the ledger would be missing from the copy, so a resume from it could promote twice.
        if backup is not None:
            raise UserError(
                f"A promotion cannot be backed up, and {found} is one: its decision and registration are not only in "
                f"its journal. Leave --backup out. If it is lost, promote again: {program()} promote"
            )
        from orchestrator.promotion.promote import resume_promotion

        finish_promotion(resume_promotion(found, options, say=print_note), options, started, json)
        return
    warn_of_mlflow()
    finish_sweep(resume_sweep(found, options), options, started, json)


def extend(
    context: typer.Context,
    sweep: SweepArgument = None,
    *,
    trials: Annotated[
        str | None, typer.Option("--trials", metavar="+N", help="Trials to add.", show_default=False)
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours", metavar="H", help="Raise the limit of a sweep or a promotion.", show_default=False
        ),
    ] = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    json: JsonOption = False,
) -> None:
    """Add trials to a sweep, or raise its limit of GPU-hours or that of a promotion.

    The search keeps what it has learned so far.
    """
    if submitted(context, address):
        return
    from orchestrator.sweep_folder.index import find_sweep, load_plan

    started = time.monotonic()
    if trials is None and max_gpu_hours is None:
        raise UserError(
            f"extend needs --trials, --max-gpu-hours, or both. For example: {program()} extend --trials +12"
        )
    promotions = {"promote", "race"}
    kinds = {"sweep", *promotions} if sweep is not None and trials is None else {"sweep"}
    found, increase = find_sweep(sweep, kinds=kinds), 0 if trials is None else _read_increase(trials)
    from orchestrator.sweep.driver import extend as extend_sweep
    from orchestrator.sweep.options import DriveOptions

    options = DriveOptions(address, allow_changed, steal_lease)
    if trials is None and load_plan(found).kind in promotions:
        from orchestrator.promotion.promote import resume_promotion

        outcome = resume_promotion(found, options, max_gpu_hours=max_gpu_hours, say=print_note)
        finish_promotion(outcome, options, started, json)
        return
    warn_of_mlflow()
    finish_sweep(extend_sweep(found, increase, options, max_gpu_hours=max_gpu_hours), options, started, json)


def _read_increase(text: str) -> int:
    # The + is optional, but shown everywhere: it says that this adds trials and does not set their number.
    digits = text.removeprefix("+")
    if not digits.isdecimal() or int(digits) < 1:
        raise UserError(
            f"--trials must be the number of trials to add, but got --trials={text}. For example: --trials +12"
        )
    return int(digits)
