"""The verb that writes what a sweep or a benchmark found as a page and as tables: report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import complete_work
from orchestrator.cli.lookup import print_source
from orchestrator.cli.options import AllowMixedOption, JsonOption
from orchestrator.cli.output import print_json, print_line, print_note, print_text
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.report.document import Report
    from orchestrator.sweep_folder.state import SweepState

_FORMATS = "html,md,tex,csv,parquet"


def report(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|PROMOTION|SUITE",
            help="An id or a name; by default the latest sweep.",
            show_default=False,
            autocompletion=complete_work,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write; by default reports/SWEEP in the home."),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="What to write, separated by commas.")
    ] = _FORMATS,
    allow_mixed: AllowMixedOption = False,
    json: JsonOption = False,
) -> None:
    """Write what a sweep, a promotion or a benchmark found, as a page and as tables.

    The page needs no network and no other file. It says in words which trial won, by how much, whether that is more
    than noise, what tau does and what it cost; of a benchmark, which methods differ, which are tied, and what stands in
    the literature. Figures and tables follow. The same tables come as Markdown, LaTeX, CSV and Parquet.
    """
    chosen = _parse_formats(formats)
    made, kind = _make(sweep, with_images=bool({"html", "md"} & set(chosen)), allow_mixed=allow_mixed)
    from orchestrator.home import home
    from orchestrator.report.write import PAGE_FILE, write_report

    folder = out or home() / "reports" / made.name
    files = write_report(made, folder, chosen)
    if json:
        print_json({kind: made.name, "findings": made.findings, "files": [str(file) for file in files]})
        return
    for sentence in made.findings:
        print_text(f"- {sentence}")
    shown = folder / PAGE_FILE if "html" in chosen else folder
    print_line(f"\nreport: {shlex.quote(str(shown))}")
    print_note(f"{counted(len(files), 'file')} in {shlex.quote(str(folder))}")


def _make(word: str | None, *, with_images: bool, allow_mixed: bool) -> tuple[Report, str]:
    """Return the report of what a word names, and whether that is a ``sweep`` or a ``suite``."""
    from orchestrator.report.build import build_report, build_suite_report
    from orchestrator.results.suite_record import find_suite

    if (suite := find_suite(word)) is not None:
        return build_suite_report(suite, allow_mixed=allow_mixed), "suite"
    return build_report(*_read(word), with_images=with_images), "sweep"


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
