"""The verbs around a sweep: browse, bundle, doctor."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AddressOption, JsonOption, SetOption, SweepArgument
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan

DEFAULT_PORT = 5000
CATCH_UP_S = 60.0
UNPACK_S = 1800.0


def browse(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|FILE", help="An id or a name, or a bundle; the latest if left out.", show_default=False
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of 127.0.0.1.")] = DEFAULT_PORT,
) -> None:
    """Open MLflow's UI, with a link to a sweep.

    On 127.0.0.1, until Ctrl-C. Of a bundle it shows all there is without the home or the MLflow that it comes from.
    """
    from orchestrator.results.bundle import SUFFIX

    if sweep is not None and (sweep.endswith(SUFFIX) or Path(sweep).is_file()):
        _browse_bundle(Path(sweep), port)
        return
    from orchestrator.sweep_folder.index import find_sweep, load_plan
    from orchestrator.tracking.connection import tracking_uri
    from orchestrator.tracking.ui import require_free_port, serve

    plan = load_plan(find_sweep(sweep))
    uri = tracking_uri()
    is_server = uri.startswith(("http://", "https://"))
    if not is_server:
        require_free_port(port)
    print_note("bringing MLflow up to date, and starting its UI, which takes some seconds ...")
    _catch_up(plan)
    if is_server:
        _print_link(plan, uri)
    else:
        serve(uri, port, lambda base: _print_ready(plan, base))


def bundle(
    sweep: SweepArgument = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The file; under the home, called after the sweep, by default."),
    ] = None,
) -> None:
    """Write a sweep into one file to hand on.

    Journal, runs, metrics, configurations, pictures and per-class tables, without credentials; weights are not in it.
    """
    from orchestrator.home import home
    from orchestrator.results.bundle import SUFFIX, write_bundle
    from orchestrator.sweep_folder.index import find_sweep

    found = find_sweep(sweep)
    out = out or home() / f"{found}{SUFFIX}"
    num_artifacts = write_bundle(found, out, say=print_note)
    print_line(f"{out}: {num_artifacts} pictures and tables, {out.stat().st_size / 2**20:.1f} MiB")
    print_next({f"browse {out}": "look at it, on any machine"})


def doctor(
    address: AddressOption = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", metavar="SPACE", help="With --address: look at its data and weights.", show_default=False
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="URI", help="With --address: where checkpoints are to go.", show_default=False
        ),
    ] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check what a sweep needs, here or on every node of a cluster.

    Prints what is there, what is missing, and how to fix it. Exits with 1 if a sweep on the embedded dataset could not
    run, or, with --address, if anything is wrong on any node.
    """
    from dataclasses import asdict

    from orchestrator.cluster.doctor import diagnose, is_healthy, list_fixes
    from orchestrator.errors import UserError

    if address is not None:
        if settings and space is None:
            raise UserError(
                "--set must go with --space, whose settings it changes. For example: --space voc --set "
                "data.store=s3://bucket/voc"
            )
        _ask_nodes(address, space, storage, settings or [], json)
        return
    if space is not None or storage is not None or settings:
        raise UserError(
            "--space, --storage and --set must go with --address, whose nodes they are looked for on. Leave them out, "
            "or add --address."
        )
    findings = diagnose()
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ["", "what", "found"], [(str(found.health), found.subject, found.detail) for found in findings], wrapped=[2]
        )
        # Below it, so that no command is broken to fit a column.
        for fix, subjects in list_fixes(findings).items():
            print_line(f"fix {subjects}: {fix}")
    if not is_healthy(findings):
        raise typer.Exit(1)


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
        for report in reports:
            for subject, problem in report.problems.items():
                print_line(f"{report.node} on {report.host}: {subject}: {problem}")
        if machines.may_grow:
            print_note("The cluster starts more nodes on demand; they are looked at once they are up.")
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def _browse_bundle(file: Path, port: int) -> None:
    """Show a bundle from a home and a store that are made for it, and go with it."""
    from orchestrator.home import HOME_VARIABLE
    from orchestrator.results.bundle import unpack_bundle
    from orchestrator.sweep_folder.index import load_plan
    from orchestrator.tracking.connection import tracking_uri
    from orchestrator.tracking.tracker import sync
    from orchestrator.tracking.ui import require_free_port, serve

    require_free_port(port)
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        os.environ[HOME_VARIABLE] = folder
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        plan = load_plan(unpack_bundle(file))
        print_note("putting the bundle into an MLflow of its own, and starting its UI, which takes some seconds ...")
        if not sync(plan.id, UNPACK_S):
            print_note(f"MLflow lacks some of {plan.id}: it could not be written within {UNPACK_S / 60:.0f} min.")
        serve(tracking_uri(), port, lambda base: _print_ready(plan, base))


def _catch_up(plan: SweepPlan) -> None:
    """Write to MLflow what a driver could not, unless one is at work."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.lease import find_holder
    from orchestrator.tracking.tracker import sync

    if find_holder(sweep_dir(plan.id)) is None and not sync(plan.id, CATCH_UP_S):
        print_note(f"MLflow lacks some of {plan.id} still; it can be written when the store answers.")


def _print_ready(plan: SweepPlan, base: str) -> None:
    _print_link(plan, base)
    print_note("Ctrl-C stops it.")


def _print_link(plan: SweepPlan, base: str) -> None:
    from orchestrator.redaction import redact
    from orchestrator.tracking.store import find_sweep_run
    from orchestrator.tracking.ui import run_url

    base = redact(base).rstrip("/")
    found = find_sweep_run(plan)
    if found is None:
        print_line(f"{base}/ has no run of {plan.id} yet; it comes with the first trial.")
        return
    print_line(f"{plan.kind} {plan.id}: {run_url(base, *found)}")
