"""Show a benchmark in MLflow: a run of its own with a description, the page of its report, figures and tables."""

from __future__ import annotations

import calendar
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.redaction import describe_error
from orchestrator.report.suite_note import describe_suite_run
from orchestrator.report.suite_report import describe_context, make_suite_report
from orchestrator.report.suite_view import SuiteView, name_metric, read_view
from orchestrator.report.write import write_report
from orchestrator.results.suite_cells import DONE, FAILED, Key
from orchestrator.results.suite_record import describe_contrasts, read_history
from orchestrator.results.suite_results import CellResult
from orchestrator.tracking import suite_runs
from orchestrator.tracking.dataset_use import DatasetUse, find_dataset
from orchestrator.tracking.runs import Point
from orchestrator.tracking.store import MlflowStore, find_own_runs
from orchestrator.tracking.suite_runs import SuitePage, connect_suites, link_runs, write_suite
from orchestrator.tracking.views import make_suite_view_tags

CELLS_DONE = "cells_done"

_LOCK_FILE = ".tracking.lock"
_UTC = "%Y-%m-%dT%H:%M:%SZ"
_NOT_IN_NAMES = re.compile(r"[^\w./ -]")
"""What MLflow does not take in the name of a metric."""


def log_suite(suite_id: str, *, is_running: bool = False, working_on: Key | None = None) -> str | None:
    """Write everything that MLflow shows of a benchmark; nothing depends on it, so a failure only has a text.

    Args:
        suite_id: Its id.
        is_running: Whether a process works on it.
        working_on: The cell that it is about to run, or is running.

    Returns:
        Why it could not be written, or None.
    """
    try:
        # Cells that cannot be compared are marked as such: nobody is here to be asked.
        view = read_view(suite_id, allow_mixed=True)
        with FileLock(view.record.folder / _LOCK_FILE, blocking=False), tempfile.TemporaryDirectory() as folder:
            write_report(make_suite_report(view), Path(folder), ("html", "md", "tex", "csv"))
            status = suite_runs.RUNNING if is_running else find_status(view)
            links = link_runs(find_own_runs(view.record.spaces))
            note = describe_suite_run(view, describe_context(view), links, status, working_on)
            write_suite(connect_suites(), make_page(view, status, note, Path(folder)))
            _set_views(view)
    except Timeout:
        return "another process is writing it"
    except Exception as error:
        return describe_error(error)
    return None


def find_status(view: SuiteView) -> str:
    """Return MLflow's status of a benchmark on which nobody works."""
    states = {cell.state for cell in view.found.cells}
    if states <= {DONE}:
        return suite_runs.FINISHED
    return suite_runs.FAILED if states <= {DONE, FAILED} else suite_runs.STOPPED


def make_page(view: SuiteView, status: str, note: str, folder: Path) -> SuitePage:
    """Return what MLflow is to show of a benchmark."""
    record, started_ms = view.record, _start_ms(view)
    ends = [state.ended_ms for cell in view.cells.values() for _, state in cell.all if state.ended_ms is not None]
    has_ended = status in (suite_runs.FINISHED, suite_runs.FAILED)
    return SuitePage(
        id=record.id,
        name=record.name,
        started_ms=started_ms,
        ended_ms=max(ends, default=started_ms) if has_ended else None,
        status=status,
        note=note,
        provenance={"commit": record.commit, "dirty": record.dirty},
        params={
            "suite.budget": str(record.budget),
            "suite.race_frac": str(record.race_frac),
            "suite.recipe": str(record.recipe),
            **{key: str(value) for key, value in record.settings.items()},
        },
        tags={
            "orchestrator.methods": ", ".join((*record.methods, *record.bounds))[:500],
            "orchestrator.seeds": str(record.seeds),
            "orchestrator.contrasts": describe_contrasts(record)[:500],
        },
        points=list(make_points(view)),
        datasets=list(_find_datasets(view)),
        folder=folder,
    )


def _start_ms(view: SuiteView) -> int:
    return 1000 * calendar.timegm(time.strptime(read_history(view.record.id)[0].utc, _UTC))


def make_points(view: SuiteView) -> Iterator[Point]:
    """Yield the mean of each cell that is done, and after each of them how many are done and what they have cost."""
    done = sorted((_end_ms(view, cell), number, cell) for number, cell in enumerate(view.found.cells) if cell.scores)
    hours: dict[str, float] = {}
    for count, (end_ms, _, cell) in enumerate(done, start=1):
        name = _NOT_IN_NAMES.sub("-", f"mean/{cell.dataset}/{cell.method}")
        assert cell.mean is not None
        assert cell.total is not None
        yield Point(len(cell.scores), end_ms, {name: cell.mean})
        unit = view.of(cell).finals[0][0].resources.hours_unit.lower().replace("-", "_")
        hours[unit] = hours.get(unit, 0.0) + cell.total.hours
        yield Point(count, end_ms, {CELLS_DONE: float(count), **hours})


def _end_ms(view: SuiteView, cell: CellResult) -> int:
    return max(state.ended_ms or 0 for _, state in view.of(cell).finals)


def _find_datasets(view: SuiteView) -> Iterator[DatasetUse]:
    found = {}
    for (dataset, _), cell in view.cells.items():
        for plan, state in cell.searches:
            if dataset not in found and (used := find_dataset(plan, state.provenance)) is not None:
                found[dataset] = used
    return iter(found.values())


def _set_views(view: SuiteView) -> None:
    """Keep a view of the final runs in the experiment of each dataset that has some."""
    for dataset in view.found.datasets:
        if any(cell.scores for cell in dataset.cells):
            tags = make_suite_view_tags(view.record.id, _start_ms(view), name_metric(dataset))
            MlflowStore(dataset.dataset).set_view(tags)
