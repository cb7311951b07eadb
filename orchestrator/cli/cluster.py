"""The verbs that start, show and stop a cluster: cluster up, status, down."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.output import print_line, print_next

if TYPE_CHECKING:
    from orchestrator.cluster.files import RayCommand

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="A Ray cluster file.")]
ShowOption = Annotated[bool, typer.Option("--dry-run", help="Show Ray's command, check the file, and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DEFAULT_CONFIG = Path("cluster.yaml")
# Long, because a new worker first installs everything.
_JOIN_S = 1800.0
_STATUS_S = 120.0
"""How long the head may take to answer, over SSH."""


def up(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Start or update the cluster that a file describes.

    Checks the file and the machines, shows Ray's own command, runs it, and waits for the workers that the file
    promises. Refuses while a sweep runs on the cluster, because Ray would be restarted under it.
    """
    from orchestrator.cluster.files import check_ready, find_prefix, read_cluster, render_up, render_wait, run_ray
    from orchestrator.cluster.on_prem import find_machines, require_reachable

    document = read_cluster(config)
    command = render_up(config, document, yes=yes)
    if dry_run:
        # Shown first: the command is of use even before credentials and keys are in place.
        print_line(str(command))
        check_ready(document, str(config), create_token=False)
        return
    check_ready(document, str(config))
    if (machines := find_machines(document, find_prefix(document))) is not None:
        require_reachable(machines)
    _require_idle(config, document)
    _run(command, "The same command continues where it stopped.")
    if (waiting := render_wait(config, document, _JOIN_S)) is not None:
        print_line("Waiting for the workers; Ctrl-C stops only the waiting.")
        logs = f"ray exec {shlex.quote(str(config))} 'tail -n 50 /tmp/ray/session_latest/logs/monitor.*'"
        run_ray(waiting, f"The head is up; see why it started no worker: {logs}")
    purpose = f"see what is missing where, while `ray dashboard {shlex.quote(str(config))}` runs"
    print_next({"doctor --address http://127.0.0.1:8265": purpose})


def status(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False) -> None:
    """Show the nodes and resources of a cluster, as its head knows them."""
    from orchestrator.cluster.files import read_cluster, render_status

    start = f"If the cluster does not run, start it: orchestrator cluster up --config {shlex.quote(str(config))}"
    _run(render_status(config, read_cluster(config)), start, dry_run, timeout_s=_STATUS_S)


def down(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Stop a cluster. The disks of its machines may be deleted with them.

    On machines of your own: ends the sweeps, which can be resumed, stops Ray, and looks that nothing is left.
    """
    from orchestrator.cluster.files import find_prefix, read_cluster, render_down
    from orchestrator.cluster.on_prem import find_machines, stop
    from orchestrator.cluster.on_prem import render_down as render_stop

    document = read_cluster(config)
    machines = find_machines(document, find_prefix(document))
    if machines is None:
        console = "Machines may still run and cost money: look at your provider's console."
        _run(render_down(config, yes=yes), console, dry_run)
        return
    for command in render_stop(machines):
        print_line(command)
    if dry_run:
        return
    if not yes:
        typer.confirm("Stop all sweeps and Ray on these machines?", abort=True)
    stop(machines, print_line)


def _require_idle(config: Path, document: dict[str, Any]) -> None:
    from orchestrator.cluster.files import ask_ray, find_prefix, render_running
    from orchestrator.cluster.on_prem import find_machines, list_running
    from orchestrator.errors import UserError

    machines = find_machines(document, find_prefix(document))
    # A head that does not exist yet, or that was never set up, does not answer.
    running = ask_ray(render_running(config, document), _STATUS_S) or [] if machines is None else list_running(machines)
    if found := [line.strip() for line in running if "(process " in line]:
        raise UserError(
            f"On the head of this cluster runs: {'; '.join(found)}. `cluster up` would restart Ray under it. Wait "
            "until it has ended, or stop it (orchestrator cancel) and resume it afterwards (orchestrator submit "
            "resume)."
        )


VERBS: dict[str, tuple[Any, str]] = {
    "up": (up, "orchestrator cluster up --config cluster/on-prem.yaml"),
    "status": (status, "orchestrator cluster status"),
    "down": (down, "orchestrator cluster down"),
}


def _run(command: RayCommand, advice: str, dry_run: bool = False, timeout_s: float | None = None) -> None:
    """Show one of Ray's commands, and run it unless this is a dry run."""
    from orchestrator.cluster.files import run_ray

    # Shown in full, so that the user can run it or look up its options in Ray's own documentation.
    print_line(str(command))
    if not dry_run:
        run_ray(command, advice, timeout_s)
