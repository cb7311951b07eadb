"""Options, arguments and exit codes that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.completion import complete_method, complete_space, complete_sweep, complete_work
from orchestrator.cli.output import print_note
from orchestrator.errors import UserError

# The same as in the epilog of every --help. 130 is 128 + SIGINT, as a shell reports it.
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def is_job_server(address: str | None) -> bool:
    """Return whether an address takes submitted jobs; if not, a Ray driver can join it.

    Raises:
        UserError: It is an address of Ray's client.
    """
    if address is not None and address.startswith("ray://"):
        raise UserError(
            f"--address must be auto, HOST:PORT or http://HOST:8265, but got --address={address}. Through Ray's "
            "client, the sweep would run far from its journal and end when the connection does. Submit a job "
            "instead: --address http://HOST:8265"
        )
    return address is not None and address.startswith(("http://", "https://"))


def check_places(storage: str | None, backup: str | None, mirror: str | None = None) -> str | None:
    """Refuse places with credentials, and return the backup's location in a form that is valid on every machine.

    Args:
        storage, backup: As given.
        mirror: The backup, given under the flag's old name.
    """
    from orchestrator.uris import absolute_uri, require_safe_uri

    if mirror is not None:
        print_note("note: --mirror is deprecated. Use --backup.")
        if backup not in (None, mirror):
            raise UserError("--mirror is the old name of --backup. Give only --backup.")
        backup = mirror
    # Before anything is planned, because the plan is printed and stored.
    require_safe_uri("--storage", storage)
    require_safe_uri("--backup", backup)
    return None if backup is None else absolute_uri(backup)


SpaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A shipped search space or a YAML file.",
        show_default=False,
        autocompletion=complete_space,
    ),
]
AllowMixedOption = Annotated[
    bool, typer.Option("--allow-mixed", help="Of a benchmark: compare cells that differ in protocol, recipe and so on.")
]
SweepArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SWEEP",
        help="An id or a name; by default the latest.",
        show_default=False,
        autocompletion=complete_sweep,
    ),
]
WorkArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SWEEP|SUITE",
        help="An id or a name; by default the latest sweep.",
        show_default=False,
        autocompletion=complete_work,
    ),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", metavar="N", help="Number of trials; by default the space's.")
]
EpochsOption = Annotated[
    int | None, typer.Option("--epochs", metavar="E", help="Full length of a trial; by default the space's.")
]
StartupOption = Annotated[
    int | None,
    typer.Option("--startup-trials", metavar="N", help="Trials, including start points, before TPE takes over."),
]
LearnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--learn-from",
        metavar="SWEEP",
        help="An earlier sweep, of any dataset or method, whose best trials are tried first. May be repeated.",
        show_default=False,
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "--max-concurrent",
        metavar="N",
        help="Trials at a time; by default as many as fit, on a cluster into what others leave.",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="S", help="Seed of the search. For the training seed: --set loop.seed=S")
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Method to train; by default the space's choice.",
        autocompletion=complete_method,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="common|published",
        help="Train all methods the same way, or this one as its authors did. Default: common.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Fix a setting, so that it is not searched. Repeatable.",
        show_default=False,
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the new sweep; by default the space's.")
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", metavar="URI", help="Where checkpoints go; by default the sweep's own folder."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to run on: auto (this machine's), or http://HOST:8265 to submit it there. By default a local "
        "Ray is started.",
    ),
]
AllowChangedOption = Annotated[
    bool,
    typer.Option(
        "--allow-changed",
        help="Continue even if the commit, uncommitted changes, lock file or data differ from the start.",
    ),
]
StealLeaseOption = Annotated[
    bool,
    typer.Option("--steal-lease", help="Take the sweep from a driver on another host, which may still be running."),
]
BackupOption = Annotated[
    str | None,
    typer.Option(
        "--backup", metavar="URI", help="Copy the journal to this place, so that another machine can continue."
    ),
]
FormerBackupOption = Annotated[str | None, typer.Option("--mirror", metavar="URI", hidden=True)]
"""The old name of --backup; still accepted, with a note."""
MaxHoursOption = Annotated[
    float | None,
    typer.Option(
        "--max-gpu-hours",
        metavar="H",
        help="Start no trial that could bring search and promotion above this; CPU-hours if trials use no GPU.",
        show_default=False,
    ),
]
MinGainOption = Annotated[
    str | None,
    typer.Option(
        "--min-gain",
        metavar="POINTS|noise",
        help="End early once the trials that are left are expected to raise the best score by less together; `noise`: "
        "by less than the deviation between seeds in earlier promotions.",
        show_default=False,
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price-per-gpu-hour",
        metavar="P",
        help="Print what it costs at this price (of a CPU-hour if trials use no GPU).",
        show_default=False,
    ),
]
ProbeOption = Annotated[
    bool,
    typer.Option("--probe", help="Measure an epoch by a few steps of the real training on this machine."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="NAME@champion, NAME/VERSION, a folder, or a dataset's name if it has just one champion.",
        show_default=False,
    ),
]
