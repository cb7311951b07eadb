"""The verbs that start, show and stop a cluster: cluster up, status, down."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.output import print_line, print_next

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="A Ray cluster file.")]
ShowOption = Annotated[bool, typer.Option("--dry-run", help="Show Ray's command, check the file, and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DEFAULT_CONFIG = Path("cluster.yaml")
_STATUS_S = 120.0
"""How long the head may take to answer, over SSH."""


def up(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Start or update the cluster that a file describes.

    Checks the file, shows Ray's own command, and runs it.
    """
    from orchestrator.cluster.files import check_ready, read_cluster, render_up

    document = read_cluster(config)
    command = render_up(config, yes=yes)
    if dry_run:
        # Shown first: the command is of use even before credentials and keys are in place.
        print_line(shlex.join(command))
        check_ready(document, str(config), create_token=False)
        return
    check_ready(document, str(config))
    _run(command, "The same command continues where it stopped.")
    purpose = f"see what is missing where, while `ray dashboard {shlex.quote(str(config))}` runs"
    print_next({"doctor --address http://127.0.0.1:8265": purpose})


def status(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False) -> None:
    """Show the nodes and resources of a cluster, as its head knows them."""
    from orchestrator.cluster.files import read_cluster, render_status

    start = f"If the cluster does not run, start it: orchestrator cluster up --config {shlex.quote(str(config))}"
    _run(render_status(config, read_cluster(config)), start, dry_run, timeout_s=_STATUS_S)


def down(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Stop a cluster. The disks of its machines may be deleted with them."""
    from orchestrator.cluster.files import read_cluster, render_down

    read_cluster(config)
    console = "Machines may still run and cost money: look at your provider's console."
    _run(render_down(config, yes=yes), console, dry_run)


VERBS: dict[str, tuple[Any, str]] = {
    "up": (up, "orchestrator cluster up --config cluster/on-prem.yaml"),
    "status": (status, "orchestrator cluster status"),
    "down": (down, "orchestrator cluster down"),
}


def _run(command: list[str], advice: str, dry_run: bool = False, timeout_s: float | None = None) -> None:
    """Show one of Ray's commands, and run it unless this is a dry run."""
    from orchestrator.cluster.files import run_ray

    # Shown in full, so that the user can run it or look up its options in Ray's own documentation.
    print_line(shlex.join(command))
    if not dry_run:
        run_ray(command, advice, timeout_s)
