"""The verb that writes what a sweep found as a page and as tables: report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import complete_sweep
from orchestrator.cli.lookup import print_source
from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import print_json, print_line, print_note, print_text
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.sweep_folder.state import SweepState

_FORMATS = "html,md,tex,csv,parquet"


def report(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|PROMOTION",
            help="An id or a name; by default the latest.",
            show_default=False,
            autocompletion=complete_sweep,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write; by default reports/SWEEP in the home."),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="What to write, separated by commas.")
    ] = _FORMATS,
    json: JsonOption = False,
) -> None:
    """Write what a sweep or a promotion found, as a page and as tables.

    The page needs no network and no other file. It says in words which trial won, by how much, whether that is more
    than noise, what tau does and what it cost; figures and tables follow. The same tables come as Markdown, LaTeX, CSV
    and Parquet.
    """
    chosen = _parse_formats(formats)
    plan, state = _read(sweep)
    from orchestrator.home import home
    from orchestrator.report.build import build_report
    from orchestrator.report.write import PAGE_FILE, write_report

    folder = out or home() / "reports" / plan.id
    made = build_report(plan, state, with_images=bool({"html", "md"} & set(chosen)))
    files = write_report(made, folder, chosen)
    if json:
        print_json({"sweep": plan.id, "findings": made.findings, "files": [str(file) for file in files]})
        return
    for sentence in made.findings:
        print_text(f"- {sentence}")
    shown = folder / PAGE_FILE if "html" in chosen else folder
    print_line(f"\nreport: {shlex.quote(str(shown))}")
    print_note(f"{counted(len(files), 'file')} in {shlex.quote(str(folder))}")


def _read(sweep: str | None) -> tuple[SweepPlan, SweepState]:
    from orchestrator.tracking.lookup import find_or_recall
    from orchestrator.tracking.reading import read_sweep

    found = find_or_recall(sweep)
    if isinstance(found, str):
        return read_sweep(found)
    print_source(found)
    return found.plan, found.state


def _parse_formats(text: str) -> list[str]:
    from orchestrator.errors import UserError
    from orchestrator.report.write import FORMATS

    chosen = [word.strip() for word in text.split(",")]
    unknown = [word for word in chosen if word not in FORMATS]
    if unknown:
        from training.config.spelling import did_you_mean

        hint = did_you_mean(unknown[0], FORMATS)
        raise UserError(
            f"--format must be some of {', '.join(FORMATS)}, but got --format={text}.{' ' + hint if hint else ''}"
        )
    return list(dict.fromkeys(chosen))
