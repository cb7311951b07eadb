"""Say what a benchmark found as the description of its run in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.durations import format_hours
from orchestrator.report.suite_findings import describe_progress, describe_results
from orchestrator.report.suite_tables import find_used_frac
from orchestrator.report.suite_view import SuiteView, name_metric
from orchestrator.results.suite_cells import DONE, Key, Work
from orchestrator.results.suite_results import CellResult, DatasetResult
from orchestrator.tracking.markdown import block, code, escape, mark, table
from orchestrator.tracking.suite_runs import RUNNING
from orchestrator.tracking.trial_notes import MAX_NOTE


def describe_suite_run(
    view: SuiteView, context: str, links: Mapping[str, str], status: str, working_on: Key | None = None
) -> str:
    """Return the description, as Markdown.

    Args:
        view: The benchmark.
        context: What all figures refer to.
        links: Sweep -> address of the page of its run.
        status: Of the benchmark, as MLflow has it.
        working_on: The cell that is running now, if any.
    """
    head = [f"**benchmark** {code(view.record.id)}: {mark(context)}", _describe_state(view, status, working_on)]
    open_cells = [] if status == RUNNING else list(describe_progress(view))
    findings = [*open_cells, *describe_results(view)]
    tail = [
        f"Among the artifacts, {code('report.html')} has all figures and tables, {code('tables')} the tables as CSV.",
        block(list_commands(view, status)),
    ]
    tables = list(_tabulate(view, links))
    # Of many cells, first the links go, and then the last sentences: half a table would not be one.
    if len(_join(head, findings, tables, tail)) > MAX_NOTE:
        tables = list(_tabulate(view, {}))
    while findings and len(_join(head, findings, tables, tail)) > MAX_NOTE:
        findings.pop()
    text = _join(head, findings, tables, tail)
    return text if len(text) <= MAX_NOTE else _join(head, [], [], tail)[:MAX_NOTE]


def _join(head: Sequence[str], findings: Sequence[str], tables: Sequence[str], tail: Sequence[str]) -> str:
    listed = "\n".join(f"- {mark(sentence)}" for sentence in findings)
    return "\n\n".join(part for part in (*head, listed, *tables, *tail) if part)


def _describe_state(view: SuiteView, status: str, working_on: Key | None) -> str:
    cells = view.found.cells
    done = f"{status}: {len(cells) - len(view.unfinished)} of {len(cells)} cells are done."
    return done if working_on is None else f"{done} Running now: {code(working_on[1])} on {code(working_on[0])}."


def list_commands(view: SuiteView, status: str) -> list[str]:
    """Return the commands that a reader may want next."""
    name = view.record.id
    if status == RUNNING:
        return [f"orchestrator status {name}"]
    rest = [f"orchestrator resume {name}"] if view.unfinished else [f"orchestrator audit {name}"]
    return [f"orchestrator leaderboard {name}", f"orchestrator report {name}", *rest]


def _tabulate(view: SuiteView, links: Mapping[str, str]) -> Iterator[str]:
    for dataset in view.found.datasets:
        rows = [_row(view, cell, links) for cell in dataset.cells]
        has_runs = any(row[-1] for row in rows)
        headers = [*_headers(dataset), "runs"]
        yield table(headers if has_runs else headers[:-1], rows if has_runs else [row[:-1] for row in rows])


def _headers(dataset: DatasetResult) -> list[str]:
    metric = escape(f"{dataset.dataset}, {name_metric(dataset)} (%)")
    return ["method", metric, "95 % interval", "seeds", "tie", "P(best)", "budget used", "hours"]


def _row(view: SuiteView, cell: CellResult, links: Mapping[str, str]) -> list[str]:
    used = find_used_frac(view, cell)
    spent = [
        "" if used is None else f"{used:.0%}",
        "" if cell.total is None else format_hours(cell.total.hours),
        ", ".join(_link_runs(view, cell, links)),
    ]
    name = escape(f"{cell.method} ({cell.told})" if cell.told else cell.method)
    if cell.mean is None or cell.low is None or cell.high is None:
        state = "not finished" if cell.state == DONE else ", ".join(filter(None, (cell.state, cell.details)))
        return [name, "", escape(state), "", "", "", *spent]
    return [
        name,
        f"{cell.mean:.2f}",
        f"{cell.low:.2f} to {cell.high:.2f}",
        str(len(cell.scores)),
        "" if cell.group is None else str(cell.group),
        "" if cell.best_prob is None else f"{cell.best_prob:.2f}",
        *spent,
    ]


def _link_runs(view: SuiteView, cell: CellResult, links: Mapping[str, str]) -> Iterator[str]:
    work = view.of(cell)
    parts: tuple[tuple[str, Sequence[Work]], ...] = (
        ("search", work.searches),
        ("race", work.races),
        ("final runs", work.finals),
    )
    for name, found in parts:
        yield from (f"[{name}]({links[plan.id]})" for plan, _ in found if plan.id in links)
