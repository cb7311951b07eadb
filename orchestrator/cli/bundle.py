"""The verb that writes a sweep to one file: bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import SweepArgument
from orchestrator.cli.output import print_line, print_next, print_note


def bundle(
    sweep: SweepArgument = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The file to write; by default SWEEP.bundle.zip in the home."),
    ] = None,
) -> None:
    """Write a sweep to one file, to share it.

    Contains its journal, runs, metrics, configurations, pictures and per-class tables; no credentials and no weights.
    """
    from orchestrator.home import home
    from orchestrator.results.bundle import SUFFIX, write_bundle
    from orchestrator.sizes import format_sizes
    from orchestrator.sweep_folder.index import find_sweep

    found = find_sweep(sweep)
    # Not the current folder: a bundle is large, and easily committed by accident.
    out = out or home() / f"{found}{SUFFIX}"
    num_artifacts = write_bundle(found, out, say=print_note)
    kind = "picture or table" if num_artifacts == 1 else "pictures and tables"
    print_line(f"{shlex.quote(str(out))}: {num_artifacts:,} {kind}, {format_sizes(out.stat().st_size)[0]}")
    print_next({f"browse {shlex.quote(str(out))}": "open it on any machine"})
