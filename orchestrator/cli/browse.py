"""The verb that shows a sweep or a benchmark in MLflow: browse."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import complete_work
from orchestrator.cli.output import print_line, print_note
from orchestrator.cli.suite_page import catch_up_suite, show_suite_links

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan

DEFAULT_PORT = 5000
# Enough for the events that a driver could not write while MLflow was away.
CATCH_UP_S = 60.0
# A bundle may hold thousands of trials, all of which have to be written again.
UNPACK_S = 1800.0


def browse(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|SUITE|FILE",
            help="An id, a name or a bundle; by default the latest sweep.",
            show_default=False,
            autocompletion=complete_work,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = DEFAULT_PORT,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
) -> None:
    """Show a sweep in MLflow, its trials alone, the best first; or the page of a benchmark.

    Serves on 127.0.0.1 until Ctrl-C. A bundle can be shown without the home and the MLflow store that it came from.
    """
    from orchestrator.results.bundle import SUFFIX

    # What looks like a file is a bundle even if it does not exist, so that the message is about a file.
    if sweep is not None and (Path(sweep).suffix == Path(SUFFIX).suffix or Path(sweep).is_file()):
        _browse_bundle(Path(sweep), port, opens=opens)
        return
    from orchestrator.results.suite_record import find_suite
    from orchestrator.sweep_folder.index import find_sweep
    from orchestrator.tracking.reading import read_sweep

    if (suite := find_suite(sweep)) is not None:
        _browse_suite(suite, port, opens=opens)
        return
    plan, _ = read_sweep(find_sweep(sweep))
    copy = shlex.quote(str(Path(tempfile.gettempdir(), f"{plan.id}{SUFFIX}")))
    _browse(
        f"Look at a copy instead: orchestrator bundle {plan.id} --out {copy}, then: orchestrator browse {copy}",
        port,
        lambda: _catch_up(plan),
        lambda base: _show_links(plan, base, opens=opens),
    )


def _browse_suite(suite_id: str, port: int, *, opens: bool) -> None:
    out = shlex.quote(str(Path(tempfile.gettempdir(), suite_id)))
    _browse(
        f"Look at its page instead: orchestrator report {suite_id} --out {out}",
        port,
        lambda: catch_up_suite(suite_id),
        lambda base: show_suite_links(suite_id, base, opens=opens),
    )


def _browse(instead: str, port: int, catch_up: Callable[[], None], show: Callable[[str], None]) -> None:
    """Bring MLflow up to date, and show it.

    Args:
        instead: What to do if the home cannot be written.
        port: For MLflow's UI, which a server has already.
        catch_up: Writes what is missing.
        show: Prints the addresses, called with the server's.
    """
    from orchestrator.tracking.connection import is_server, require_answer, tracking_uri
    from orchestrator.tracking.ui import require_free_port, serve

    uri = tracking_uri()
    # Checked before catching up, which can take a long time and would be wasted if the port is taken.
    if not is_server():
        require_free_port(port)
        _require_writable_home(instead)
    print_note("bringing MLflow up to date and starting its UI; this takes a few seconds ...")
    require_answer("The leaderboard needs no MLflow: orchestrator leaderboard")
    catch_up()
    if is_server():
        show(uri)
    else:
        serve(uri, port, lambda base: _show_ready(lambda: show(base)))


def _require_writable_home(instead: str) -> None:
    """Check the home, which MLflow's UI writes to."""
    from orchestrator.errors import UserError
    from orchestrator.home import home
    from orchestrator.writable import find_obstacle

    obstacle = find_obstacle(home())
    if obstacle is not None:
        raise UserError(f"The home cannot be written: {home()} ({obstacle}), and MLflow's UI writes to it. {instead}")


def _browse_bundle(file: Path, port: int, *, opens: bool) -> None:
    """Show a bundle from a temporary home and MLflow store."""
    from orchestrator.home import HOME_VARIABLE
    from orchestrator.results.bundle import unpack_bundle
    from orchestrator.sweep_folder.index import load_plan
    from orchestrator.tracking.connection import tracking_uri
    from orchestrator.tracking.tracker import sync
    from orchestrator.tracking.ui import require_free_port, serve

    require_free_port(port)
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        os.environ[HOME_VARIABLE] = folder
        # Otherwise the bundle would be written to the user's own MLflow store.
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        # Before the work, which takes minutes for a large bundle.
        if file.is_file():
            print_note(f"opening {file} in a temporary MLflow store and starting its UI; this takes a few seconds ...")
        plan = load_plan(unpack_bundle(file))
        # Nobody else uses this store, so a failure stays.
        if not sync(plan.id, UNPACK_S, retry=False):
            print_note(f"MLflow is incomplete: {plan.id} could not be written within {UNPACK_S / 60:.0f} min.")
        serve(tracking_uri(), port, lambda base: _show_ready(lambda: _show_links(plan, base, opens=opens)))


def _catch_up(plan: SweepPlan) -> None:
    """Write to MLflow what an earlier driver could not, unless a driver is running."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.lease import find_holder
    from orchestrator.tracking.tracker import sync

    # A driver writes to MLflow itself, and two writers would get in each other's way.
    if find_holder(sweep_dir(plan.id)) is None and not sync(plan.id, CATCH_UP_S):
        print_note(
            f"MLflow is still incomplete: not all of {plan.id} could be written to its store in time. Try again later."
        )


def _show_ready(show: Callable[[], None]) -> None:
    show()
    print_note("Ctrl-C stops it.")


def _show_links(plan: SweepPlan, base: str, *, opens: bool) -> None:
    from orchestrator.redaction import redact
    from orchestrator.tracking.pages import find_pages, open_page

    pages = find_pages(base, plan)
    if pages is None:
        print_line(f"{redact(base).rstrip('/')}/ has no run of {plan.id} yet. It appears with the first trial.")
        return
    print_line(f"{plan.kind} {plan.id}: {redact(pages.trials)}")
    print_line(f"in charts: {redact(pages.charts)}")
    print_line(f"described: {redact(pages.own)}")
    if opens and not open_page(pages.trials):
        print_note("No browser was found here. Open the address above on a machine that can reach it.")
