"""The verbs that start, show and stop a cluster: cluster up, status, down."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.output import print_line, print_next

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="A Ray cluster file.")]
ShowOption = Annotated[bool, typer.Option("--dry-run", help="Show Ray's command and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DEFAULT_CONFIG = Path("cluster.yaml")


def up(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Start or update the cluster that a file describes.

    Checks the file, shows Ray's own command, and runs it.
    """
    from orchestrator.cluster.files import check_ready, read_cluster, render_up

    document = read_cluster(config)
    # A dry run can show the command even before credentials and keys are in place.
    if not dry_run:
        check_ready(document, str(config))
    if _run(render_up(config, yes=yes), dry_run):
        purpose = f"see what is missing where, while `ray dashboard {shlex.quote(str(config))}` runs"
        print_next({"doctor --address http://127.0.0.1:8265": purpose})


def status(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False) -> None:
    """Show the nodes and resources of a cluster, as its head knows them."""
    from orchestrator.cluster.files import read_cluster, render_status

    _run(render_status(config, read_cluster(config)), dry_run)


def down(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Stop a cluster. The disks of its machines may be deleted with them."""
    from orchestrator.cluster.files import read_cluster, render_down

    read_cluster(config)
    _run(render_down(config, yes=yes), dry_run)


VERBS: dict[str, tuple[Any, str]] = {
    "up": (up, "orchestrator cluster up --config cluster/on-prem.yaml"),
    "status": (status, "orchestrator cluster status"),
    "down": (down, "orchestrator cluster down"),
}


def _run(command: list[str], dry_run: bool) -> bool:
    """Show one of Ray's commands, and run it unless this is a dry run; return whether it ran."""
    from orchestrator.cluster.files import run_ray

    # Shown in full, so that the user can run it or look up its options in Ray's own documentation.
    print_line(shlex.join(command))
    if not dry_run:
        run_ray(command)
    return not dry_run
