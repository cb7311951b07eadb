"""The options and arguments and exit codes that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.output import print_note
from orchestrator.errors import UserError

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class SubmitInstead(Exception):  # noqa: N818 - no error: the program calls itself again
    """The address is that of a job server: what was typed is to be submitted there."""


def check_address(address: str | None) -> str | None:
    """Return an address that this process can join.

    Raises:
        SubmitInstead: It is one that jobs are submitted to.
        UserError: It is Ray's client.
    """
    if address is None:
        return None
    if address.startswith("ray://"):
        raise UserError(
            f"--address must be auto, HOST:PORT or http://HOST:8265, but got --address={address}. Under Ray's client "
            f"the Tuner would "
            "run in a remote actor, away from the journal, and end with this connection. A job is not bound to it: "
            "--address http://HOST:8265"
        )
    if address.startswith(("http://", "https://")):
        raise SubmitInstead
    return address


def check_places(storage: str | None, backup: str | None, mirror: str | None = None) -> str | None:
    """Refuse places with credentials, and return the backup's place as every machine would name it.

    Args:
        storage, backup: As given.
        mirror: The backup under the flag's former name.
    """
    from orchestrator.uris import absolute_uri, require_no_credentials

    if mirror is not None:
        print_note("note: --mirror is deprecated. Use --backup.")
        if backup not in (None, mirror):
            raise UserError("--mirror is the former name of --backup. Give only --backup.")
        backup = mirror
    require_no_credentials("--storage", storage)
    require_no_credentials("--backup", backup)
    return None if backup is None else absolute_uri(backup)


SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE", help="A shipped search space or a YAML file.", show_default=False)
]
SweepArgument = Annotated[
    str | None, typer.Argument(metavar="SWEEP", help="An id or a name; the latest if left out.", show_default=False)
]
TrialsOption = Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials, in place of the space's.")]
EpochsOption = Annotated[
    int | None, typer.Option("--epochs", metavar="E", help="Full length of a trial, in place of the space's.")
]
StartupOption = Annotated[
    int | None,
    typer.Option(
        "--startup-trials", metavar="N", help="Trials drawn at random, start points included, before TPE decides."
    ),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", help="Trials at a time; as many as fit by default.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="S", help="Seed of the search. The training seed is --set loop.seed=S.")
]
MethodOption = Annotated[
    str | None, typer.Option("--method", metavar="NAME", help="A method of the space, in place of its default.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="common|published",
        help="One set-up for all methods, or the method's published one. By default common.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Fix a setting; a searched one leaves the search. Repeatable.",
        show_default=False,
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name it; called after its space by default.")
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", metavar="URI", help="Where checkpoints go; the sweep's own folder by default."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="A Ray cluster to run on: auto (the one here), or http://HOST:8265 to submit it there; a local Ray by "
        "default.",
        callback=check_address,
    ),
]
AllowChangedOption = Annotated[
    bool,
    typer.Option(
        "--allow-changed", help="Go on although commit, uncommitted changes, lock or data are not those of its start."
    ),
]
StealLeaseOption = Annotated[
    bool,
    typer.Option("--steal-lease", help="Take it from a driver on another host, which may still live."),
]
BackupOption = Annotated[
    str | None,
    typer.Option("--backup", metavar="URI", help="Copy the journal there, so that another machine can go on from it."),
]
FormerBackupOption = Annotated[str | None, typer.Option("--mirror", metavar="URI", hidden=True)]
"""The former name of --backup: still accepted, with a note."""
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
