"""The verb that checks what a sweep needs: doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.completion import complete_space
from orchestrator.cli.jobs import submitted
from orchestrator.cli.options import EXIT_FAILURE, AddressOption, JsonOption, SetOption
from orchestrator.cli.output import print_json, print_line, print_note, print_table


def doctor(
    context: typer.Context,
    address: AddressOption = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="SPACE",
            help="With --address: also check this space's data and weights.",
            show_default=False,
            autocompletion=complete_space,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URI",
            help="With --address: check that checkpoints can be written there.",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check what a sweep needs, here or on every node of a cluster.

    Prints what is present, what is missing, and how to fix it. Exits with 1 if a sweep on the embedded dataset could
    not run, or, with --address, if anything is wrong on any node.
    """
    if submitted(context, address):
        return
    from dataclasses import asdict

    from orchestrator.cluster.doctor import diagnose, is_healthy, list_fixes
    from orchestrator.errors import UserError

    if address is not None:
        if settings and space is None:
            raise UserError(
                "--set changes the settings of a space, but no --space was given. For example: --space voc --set "
                "data.store=s3://bucket/voc"
            )
        _ask_nodes(address, space, storage, settings or [], json)
        return
    # Not ignored silently: the user would believe that they were checked.
    if space is not None or storage is not None or settings:
        raise UserError(
            "--space, --storage and --set are checked on the nodes of a cluster. Add --address, or leave them out."
        )
    findings = diagnose()
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ["", "what", "found"], [(str(found.health), found.subject, found.detail) for found in findings], wrapped=[2]
        )
        # Below the table, so that no command is broken to fit a column.
        for fix, subjects in list_fixes(findings).items():
            print_line(f"fix {subjects}: {fix}")
    if not is_healthy(findings):
        raise typer.Exit(EXIT_FAILURE)


def _ask_nodes(address: str, space: str | None, storage: str | None, settings: list[str], json: bool) -> None:
    from dataclasses import asdict

    from orchestrator.cluster.doctor import diagnose_nodes
    from orchestrator.planning.request import parse_overrides

    reports, machines = diagnose_nodes(address, space, storage, parse_overrides(settings))
    if json:
        print_json([asdict(report) for report in reports])
    else:
        rows = [
            (
                report.node,
                report.host,
                *(report.versions.get(name) for name in ("python", "torch", "ray")),
                len(report.problems) or "ok",
            )
            for report in reports
        ]
        print_table(["node", "host", "python", "torch", "ray", "problems"], rows)
        # Below the table, because a problem takes a whole sentence.
        for report in reports:
            for subject, problem in report.problems.items():
                print_line(f"{report.node} on {report.host}: {subject}: {problem}")
        if machines.may_grow:
            print_note("The cluster starts more nodes on demand. Check again once they are up.")
    if any(report.problems for report in reports):
        raise typer.Exit(EXIT_FAILURE)
