"""The verbs for jobs on a cluster: submit, jobs, logs, cancel."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, JsonOption, is_job_server
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table
from orchestrator.errors import UserError
from orchestrator.program import program
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.cluster.jobs import Job

# These need a terminal, or are about jobs themselves.
_NOT_SUBMITTED = ("browse", "cancel", "cluster", "jobs", "logs", "submit")
_RESUMED = ("ablate", "extend", "promote", "resume", "sweep", "train")
# These take seconds, and the user wants their output.
_FOLLOWED = ("doctor",)
# Options that name places that must outlast the job.
_PLACES = ("storage", "backup", "mirror", "out")

JobArgument = Annotated[
    str | None, typer.Argument(metavar="JOB", help="An id; by default the latest.", show_default=False)
]


ServerOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Where the job server is now; by default where the job was submitted.",
        show_default=False,
    ),
]


def submit(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="VERB ...", help="A verb with its arguments and options.")],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="The job server; by default the last one used, or 127.0.0.1:8265.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its output until it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent and run, and stop.")] = False,
) -> None:
    """Run a verb on a cluster, as a Ray job.

    The job then no longer needs this machine. Sends the code and the YAML files that the verb names, nothing else.
    Credentials come from the environment of the nodes.
    """
    from orchestrator.cluster.jobs import split_address

    # "auto" is the address on the head itself, so it says nothing about the job server.
    verb, inner = split_address(words)
    if inner is not None and inner != "auto":
        address = inner
    is_job_server(address)  # refuses Ray's client, and says why
    _submit(context, verb, address, follow=follow, dry_run=dry_run)


def submitted(context: typer.Context, address: str | None) -> bool:
    """Submit the verb that was typed if its address is that of a job server; return whether it was submitted.

    Every verb with ``--address`` calls this in its first line.
    """
    from orchestrator.cluster.jobs import split_address

    if not is_job_server(address):
        return False
    # As typed, so that defaults stay those of the version that runs the job.
    typed: list[str] = context.find_root().obj
    _submit(context, split_address(typed)[0], address)
    return True


def jobs(address: ServerOption = None, json: JsonOption = False) -> None:
    """List the jobs submitted from this home, with their state."""
    from dataclasses import asdict, replace

    from orchestrator.cluster.job_client import require_http
    from orchestrator.cluster.jobs import list_jobs, read_states

    found = list_jobs()
    if address is not None:
        server = require_http(address)
        found = [replace(job, address=server) for job in found]
    states = read_states(found)
    if json:
        print_json([{**asdict(job), "state": states[job.id]} for job in found])
        return
    if not found:
        print_note(f"No jobs yet. Submit one: {program()} submit sweep digits")
        return
    rows = [
        (
            job.id,
            states[job.id],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job.submitted)),
            shlex.join(job.words),
            job.address,
        )
        for job in found
    ]
    headers = ["job", "state", "submitted", "verb", "at"]
    print_table(headers, rows, wrapped=[3], drop=[4, 2], hint=f"{program()} jobs --json")


def logs(
    job: JobArgument = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until it ends, and exit with its exit code.")
    ] = False,
    address: ServerOption = None,
) -> None:
    """Print the output of a job."""
    from orchestrator.cluster.jobs import find_job, read_log

    found = find_job(job, address)
    if follow:
        _follow(found)
        return
    _show(read_log(found))


def cancel(job: JobArgument = None, address: ServerOption = None) -> None:
    """Stop a job.

    Ray sends SIGTERM, and SIGKILL some seconds later. A sweep survives both and can be resumed.
    """
    from orchestrator.cluster.jobs import cancel as cancel_job
    from orchestrator.cluster.jobs import find_job, render_resume

    found = find_job(job, address)
    state = cancel_job(found)
    print_line(f"{found.id}: {state}")
    if state == "STOPPED" and found.words[:1] and found.words[0] in _RESUMED:
        print_next({render_resume(found): "continue it; finished epochs are not run again"})


def _submit(
    context: typer.Context, words: list[str], address: str | None, *, follow: bool = False, dry_run: bool = False
) -> None:
    from orchestrator.cluster import jobs as job_store
    from orchestrator.cluster.job_client import require_http
    from orchestrator.cluster.job_package import packed, render_entrypoint

    server = require_http(address or job_store.default_address())
    # Parsed before packing, so that a typo is found at once.
    verb = _check_verb(context, words)
    with packed(verb) as package:
        print_note(
            f"code to send to {server}: {counted(len(package.files), 'file')}, {package.num_bytes / 2**20:.2f} MiB"
        )
        if dry_run:
            for file in package.files:
                print_line(file)
            print_line(f"entry point: {render_entrypoint(package.words)}")
            return
        job = job_store.submit(package, server)
    print_line(f"submitted {job.id}: {shlex.join(job.words)}")
    if follow or verb[0] in _FOLLOWED:
        _follow(job)
        return
    print_next({f"logs {job.id} --follow": "see its output", "jobs": "see its state", f"cancel {job.id}": "stop it"})


def _check_verb(context: typer.Context, words: list[str]) -> list[str]:
    """Return the words for the head to run, after parsing them here, so that a typo is found at once."""
    if not words or words[0] in _NOT_SUBMITTED:
        raise UserError(
            f"{f'{words[0]} cannot be submitted' if words else 'submit needs a verb to run'}. See: "
            f"{program()} submit --help"
        )
    root = context.find_root()
    group, parent, rest = root.command, root, words
    while hasattr(group, "resolve_command"):
        name, group, rest = group.resolve_command(parent, rest)
        takes_address = any(parameter.name == "address" for parameter in group.params)
        # Parses without running. The parser empties the list that it is given, hence the copy.
        with group.make_context(name, [*rest], parent=parent) as parsed:
            found, parent = dict(parsed.params), parsed
    # Most mistakes are in the space, so it is read here too.
    if words[0] in ("plan", "sweep") and found.get("space"):
        from search_spaces.schema import load_space

        load_space(found["space"])
    for name in _PLACES:
        _require_lasting(name, found.get(name))
    return [*words, "--address", "auto"] if takes_address else words


def _require_lasting(name: str, place: object) -> None:
    """Check that a place outlasts the job: a relative one is in the job's folder, which Ray removes.

    Raises:
        UserError: It is relative.
    """
    if isinstance(place, str | Path) and "://" not in str(place) and not str(place).startswith(("/", "~")):
        raise UserError(
            f"--{name} of a submitted verb must be a URI or an absolute path, but got --{name}={place}. On the "
            f"cluster, a relative path is in the job's own folder, which is removed when the job ends. Use --{name} "
            f"s3://bucket/{place}, or a folder that all nodes mount."
        )


def _follow(job: Job) -> None:
    from orchestrator.cluster.jobs import follow_log

    state, code = follow_log(job, _show)
    print_note(f"{job.id}: {state}")
    # The same codes as if the verb had run here, for scripts that wait for it.
    if state == "STOPPED":
        raise typer.Exit(EXIT_INTERRUPTED)
    if state == "FAILED":
        raise typer.Exit(code or EXIT_FAILURE)


def _show(text: str) -> None:
    # A log arrives in pieces, which need not end at the end of a line.
    print(text, end="" if text.endswith("\n") else "\n", flush=True)
