"""The verbs around a cluster: cluster up, status and down; submit, jobs, logs, cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, JsonOption, check_address
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table, program
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.cluster.jobs import Job

# They serve a terminal, or speak of jobs themselves.
_NOT_SUBMITTED = ("browse", "cancel", "cluster", "jobs", "logs", "submit")
_RESUMED = ("ablate", "extend", "promote", "resume", "sweep", "train")
# They are over soon, and what they print is what was asked for.
_FOLLOWED = ("doctor",)
# What is written there is wanted after the job.
_PLACES = ("storage", "backup", "mirror", "out")

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="A cluster file of Ray's.")]
ShowOption = Annotated[bool, typer.Option("--dry-run", help="Show Ray's command and stop.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Have Ray not ask before it acts.")]
JobArgument = Annotated[
    str | None, typer.Argument(metavar="JOB", help="An id; the latest if left out.", show_default=False)
]
DEFAULT_CONFIG = Path("cluster.yaml")


def up(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """Start the cluster of a file, or bring it up to date.

    The file is checked, and Ray's own command shown, then run.
    """
    from orchestrator.cluster.files import check_ready, read_cluster, render_up

    document = read_cluster(config)
    if not dry_run:
        check_ready(document, str(config))
    if _run(render_up(config, yes=yes), dry_run):
        print_next(
            {
                "doctor --address http://127.0.0.1:8265": f"see what is missing where, while `ray dashboard {config}` "
                f"runs"
            }
        )


def status(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False) -> None:
    """Ask the head of a cluster which nodes and resources there are."""
    from orchestrator.cluster.files import read_cluster, render_status

    _run(render_status(config, read_cluster(config)), dry_run)


def down(config: ConfigOption = DEFAULT_CONFIG, dry_run: ShowOption = False, yes: YesOption = False) -> None:
    """End the cluster of a file; what lies on the disks of its machines may go with them."""
    from orchestrator.cluster.files import read_cluster, render_down

    read_cluster(config)
    _run(render_down(config, yes=yes), dry_run)


VERBS: dict[str, tuple[Any, str]] = {
    "up": (up, "orchestrator cluster up --config cluster/on-prem.yaml"),
    "status": (status, "orchestrator cluster status"),
    "down": (down, "orchestrator cluster down"),
}


def submit(
    context: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="VERB ...", help="Any verb of this program, with all that it takes.")
    ],
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="URL", help="Of the job server: the last one, or 127.0.0.1:8265.", show_default=False
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show what it prints until it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent and run, and stop.")] = False,
) -> None:
    """Run a verb on a cluster, as a Ray job that lives on without this machine.

    Code is sent (and the YAML files that the verb names), nothing else; credentials come from the environment of the
    nodes.
    """
    from orchestrator.cluster import jobs as job_store
    from orchestrator.cluster.job_client import require_http
    from orchestrator.cluster.job_package import packed, render_entrypoint

    verb, inner = job_store.split_address(words)
    if inner is not None and inner != "auto":
        address = inner
    if address is not None and address.startswith("ray://"):
        check_address(address)  # which says why not
    server = require_http(address or job_store.default_address())
    verb = _check_verb(context, verb)
    with packed(verb) as package:
        print_note(f"code to send to {server}: {len(package.files)} files, {package.num_bytes / 2**20:.2f} MiB")
        if dry_run:
            for file in package.files:
                print_line(file)
            print_line(f"entry point: {render_entrypoint(package.words)}")
            return
        job = job_store.submit(package, server)
    print_line(f"submitted {job.id}: {' '.join(job.words)}")
    if follow or verb[0] in _FOLLOWED:
        _follow(job)
        return
    print_next(
        {f"logs {job.id} --follow": "see what it prints", "jobs": "see how it stands", f"cancel {job.id}": "stop it"}
    )


def jobs(json: JsonOption = False) -> None:
    """List what was submitted from this home, and how it stands."""
    from dataclasses import asdict

    from orchestrator.cluster.jobs import list_jobs, read_states

    found = list_jobs()
    states = read_states(found)
    if json:
        print_json([{**asdict(job), "state": states[job.id]} for job in found])
        return
    rows = [
        (
            job.id,
            states[job.id],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job.submitted)),
            " ".join(job.words),
            job.address,
        )
        for job in found
    ]
    print_table(
        ["job", "state", "submitted", "verb", "at"], rows, wrapped=[3], drop=[4, 2], hint=f"{program()} jobs --json"
    )
    if not found:
        print_note(f"Nothing was submitted from here. Submit something: {program()} submit sweep digits")


def logs(
    job: JobArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends; exit as it does.")] = False,
) -> None:
    """Print what a job has printed."""
    from orchestrator.cluster.jobs import find_job, read_log

    found = find_job(job)
    if follow:
        _follow(found)
        return
    _show(read_log(found))


def cancel(job: JobArgument = None) -> None:
    """Stop a job.

    Ray sends SIGTERM, and SIGKILL some seconds later. A sweep survives both, and can be resumed.
    """
    from orchestrator.cluster.jobs import cancel as cancel_job
    from orchestrator.cluster.jobs import find_job, render_resume

    found = find_job(job)
    state = cancel_job(found)
    print_line(f"{found.id}: {state}")
    if state == "STOPPED" and found.words[0] in _RESUMED:
        print_next({render_resume(found): "go on with what it was doing; finished epochs are not run again"})


def submitting(words: list[str]) -> list[str]:
    """Return the words that submit what these would run on a job server; its address is among them."""
    from orchestrator.cluster.jobs import split_address

    rest, address = split_address(words)
    return ["submit", "--address", str(address), *rest]


def _run(command: list[str], dry_run: bool) -> bool:
    """Show one of Ray's commands and run it, or stop before; return whether it ran."""
    import shlex

    from orchestrator.cluster.files import run_ray

    print_line(shlex.join(command))
    if not dry_run:
        run_ray(command)
    return not dry_run


def _check_verb(context: typer.Context, words: list[str]) -> list[str]:
    """Return the words that the head is to run, once they are known to be a verb with words that it takes.

    What is wrong with them is found here, not on the cluster a minute later.
    """
    if not words or words[0] in _NOT_SUBMITTED:
        raise UserError(
            f"submit must be given a verb that runs by itself, but got {words[0] if words else 'none'}. See: "
            f"{program()} submit --help"
        )
    group, parent, rest = context.find_root().command, context.find_root(), words
    while hasattr(group, "resolve_command"):
        name, group, rest = group.resolve_command(parent, rest)
        takes_address = any(parameter.name == "address" for parameter in group.params)
        # Parsed without being run. The parser empties the list that it is given.
        with group.make_context(name, [*rest], parent=parent) as parsed:
            found, parent = dict(parsed.params), parsed
    if words[0] in ("plan", "sweep") and found.get("space"):
        from search_spaces.schema import load_space

        load_space(found["space"])
    for name in _PLACES:
        _require_lasting(name, found.get(name))
    return [*words, "--address", "auto"] if takes_address else words


def _require_lasting(name: str, place: object) -> None:
    """Check that a place holds after the job: a relative one lies in the code that was sent, which Ray removes.

    Raises:
        UserError: It is relative.
    """
    if isinstance(place, str | Path) and "://" not in str(place) and not str(place).startswith(("/", "~")):
        raise UserError(
            f"--{name} of a submitted verb must be a URI or an absolute path, but got --{name}={place}, which on the "
            f"cluster lies in the "
            f"job's own folder and goes with it. For example: --{name} s3://bucket/{place}, or a folder that all nodes "
            f"mount."
        )


def _follow(job: Job) -> None:
    from orchestrator.cluster.jobs import follow_log

    state, code = follow_log(job, _show)
    print_note(f"{job.id}: {state}")
    if state == "STOPPED":
        raise typer.Exit(EXIT_INTERRUPTED)
    if state == "FAILED":
        raise typer.Exit(code or EXIT_FAILURE)


def _show(text: str) -> None:
    print(text, end="" if text.endswith("\n") else "\n", flush=True)
