"""The verbs that check finished work: audit, reproduce, replay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.completion import complete_work
from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, JsonOption, SweepArgument
from orchestrator.cli.output import print_json, print_line, print_note
from orchestrator.durations import format_seconds
from orchestrator.program import program
from training.counts import counted, singular

if TYPE_CHECKING:
    from orchestrator.audit.audit import Audit
    from orchestrator.audit.replay import Replay
    from orchestrator.audit.reproduce import Reproduction

_MAX_DIFFERENCES = 10


def audit(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|SUITE|TABLE",
            help="An id, a name, or a table (.parquet, .csv, .json); by default the latest.",
            show_default=False,
            autocompletion=complete_work,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check that figures hold.

    Computes them again from stored scores and journals, and checks seeds, data, weights, code, the test ledger and, in
    a table, whether its cells can be compared. Exits with 1 if anything is found, and says what to do about it.
    """
    from orchestrator.audit.audit import audit as audit_work
    from orchestrator.home import require_home

    require_home()
    found = audit_work(what)
    if json:
        print_json({"audited": list(found.subjects), "openings": list(found.counts), **found.report.to_json()})
    else:
        _print_audit(found)
    if not found.holds:
        raise typer.Exit(EXIT_FAILURE)


def _print_audit(found: Audit) -> None:
    for finding in found.report.findings:
        print_line(f"[{finding.kind}] {finding}")
    for text in found.report.unchecked:
        print_note(f"not checked: {text}")
    num = len(found.report.findings)
    print_line(f"{counted(num, 'finding')} in {', '.join(found.subjects) or 'nothing'}")
    print_line(
        "checked: "
        + ", ".join(
            f"{count:,} {what if count != 1 else singular(what)}" for what, count in found.report.checked.items()
        )
    )
    for line in found.counts:
        print_line(line)


def reproduce(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="SWEEP/TRIAL, or the id of a run in MLflow.", show_default=False)
    ],
    json: JsonOption = False,
) -> None:
    """Train a run again from its record, and compare every epoch.

    On the same machine, with the same versions, every figure comes out the same to the last bit. Exits with 1 if one
    does not, and says what was not the same.
    """
    from orchestrator.audit.reproduce import reproduce as reproduce_run

    started = time.monotonic()
    found = reproduce_run(run)
    if found.state != "FINISHED":
        print_note(f"{found.state.lower()}. Continue it: {program()} reproduce {run}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if json:
        print_json(found.to_json())
    else:
        _print_reproduction(found)
    print_note(f"finished, {format_seconds(time.monotonic() - started)}")
    if found.differences:
        raise typer.Exit(EXIT_FAILURE)


def _print_reproduction(found: Reproduction) -> None:
    compared = f"{counted(found.num_figures, 'figure')} of {counted(found.num_epochs, 'epoch')}"
    if not found.differences:
        print_line(f"{found.run} again is {found.again}: all {compared} are the same to the last bit")
    else:
        num = len(found.differences)
        print_line(f"{found.run} again is {found.again}: {num} of {compared} differ")
        for difference in found.differences[:_MAX_DIFFERENCES]:
            print_line(f"  {difference}")
        print_line(f"largest difference on validation data: {found.largest:.3g} points")
    for name, (before, now) in found.conditions.items():
        print_line(f"  not the same: {name} was {before}, is {now}")


def replay(
    sweep: SweepArgument = None,
    scheduler: Annotated[
        Literal["none", "asha", "screen"],
        typer.Option("--scheduler", help="What decides; the screen lets the best few continue after --grace epochs."),
    ] = "asha",
    grace: Annotated[
        int | None, typer.Option("--grace", metavar="E", help="Epochs that every trial gets; by default the sweep's.")
    ] = None,
    reduction: Annotated[
        float | None,
        typer.Option("--reduction", metavar="R", help="ASHA continues one trial in R; by default the sweep's."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="K", help="Trials that the screen lets continue; by default the sweep's."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Replay a sweep's curves under another scheduler.

    Says whether it would have kept the winner, and at what cost. Sweep with --set scheduler.name=none for curves that
    no scheduler has cut.
    """
    from orchestrator.audit.replay import replay_sweep
    from orchestrator.sweep_folder.index import find_sweep

    found = find_sweep(sweep, kinds={"sweep"} if sweep is None else None)
    replayed = replay_sweep(found, scheduler, grace_epochs=grace, reduction_factor=reduction, keep=keep)
    if json:
        print_json({"sweep": found, **replayed.to_json()})
    else:
        _print_replay(found, replayed)


def _print_replay(sweep: str, found: Replay) -> None:
    print_line(f"{sweep} under {found.scheduler}")
    print_line(f"  trials  {found.num_trials}, of which {len(found.stopped)} would have been stopped")
    print_line(f"  epochs  {found.epochs}, {100 * found.cost:.0f} % of {found.full_epochs} at full length")
    if found.winner is None:
        print_line("  winner  none: no trial was completed")
    elif found.kept:
        print_line(f"  winner  kept: trial {found.winner}")
    else:
        best = "nothing" if found.chosen is None else f"trial {found.chosen}, {found.regret or 0.0:.2f} points below"
        print_line(f"  winner  lost: trial {found.winner} at epoch {found.stopped[found.winner]}; left is {best}")
    if found.cut_short:
        num = len(found.cut_short)
        print_note(
            f"note: {counted(num, 'trial')} that the sweep itself stopped would have continued; how they "
            f"end is not known, so the cost is a lower bound."
        )
