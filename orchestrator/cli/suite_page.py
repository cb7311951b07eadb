"""Keeps the page of a benchmark in MLflow up to date while it runs, and shows it: browse SUITE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.output import print_line, print_note
from orchestrator.program import program

if TYPE_CHECKING:
    from orchestrator.results.suite_cells import Key


class SuitePageWriter:
    """Writes the page as often as it is told to, and says once if that fails.

    Args:
        suite_id: The benchmark.
    """

    def __init__(self, suite_id: str) -> None:
        self._suite_id = suite_id
        self._problem: str | None = None

    def show(self, key: Key) -> None:
        """Write what there is, and that this cell is running."""
        from orchestrator.report.suite_in_mlflow import log_suite

        self._note(log_suite(self._suite_id, is_running=True, working_on=key))

    def end(self) -> None:
        """Write the page of a benchmark that has ended or was stopped."""
        from orchestrator.report.suite_in_mlflow import log_suite

        self._note(log_suite(self._suite_id))

    def _note(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            print_note(
                f"note: MLflow does not show {self._suite_id} as it stands ({problem}). Write its page later: "
                f"{program()} browse {self._suite_id}"
            )
        self._problem = problem


def catch_up_suite(suite_id: str) -> None:
    """Write what MLflow lacks of a benchmark and of its sweeps, unless a process works on it."""
    from orchestrator.home import sweep_dir
    from orchestrator.report.suite_in_mlflow import log_suite
    from orchestrator.results.suite_cells import read_cells
    from orchestrator.results.suite_record import read_record
    from orchestrator.suite.run import is_worked_on
    from orchestrator.sweep_folder.lease import find_holder
    from orchestrator.tracking.store import find_own_runs
    from orchestrator.tracking.suite_runs import find_behind
    from orchestrator.tracking.tracker import sync

    record = read_record(suite_id)
    # Its own process writes, and two writers would get in each other's way.
    if is_worked_on(record):
        return
    works = [work for cell in read_cells(record).values() for work in cell.all]
    for plan in find_behind(works, find_own_runs(record.spaces)):
        if find_holder(sweep_dir(plan.id)) is None and not sync(plan.id):
            print_note(f"MLflow is still incomplete: not all of {plan.id} could be written in time. Try again later.")
    if (problem := log_suite(suite_id)) is not None:
        print_note(f"MLflow does not show {suite_id} as it stands: {problem}")


def show_suite_links(suite_id: str, base: str, *, opens: bool) -> None:
    """Print where MLflow shows a benchmark, and open its page in the browser if asked to."""
    from orchestrator.redaction import redact
    from orchestrator.results.suite_record import read_record
    from orchestrator.tracking.pages import find_suite_pages, open_page

    pages = find_suite_pages(base, suite_id, read_record(suite_id).spaces)
    if pages is None:
        print_line(f"{redact(base).rstrip('/')}/ has no run of {suite_id} yet.")
        return
    print_line(f"benchmark {suite_id}: {redact(pages.own)}")
    for dataset, address in pages.final_runs.items():
        print_line(f"final runs on {dataset}: {redact(address)}")
    if opens and not open_page(pages.own):
        print_note("No browser was found here. Open the address above on a machine that can reach it.")
