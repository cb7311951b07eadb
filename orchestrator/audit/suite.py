"""Audit a benchmark: do all its cells have the budget, the seeds and the conditions that were registered?"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from orchestrator.audit.findings import Report, name_all
from orchestrator.audit.subject import Subject
from orchestrator.audit.table import measure_budgets
from orchestrator.errors import OrchestratorError
from orchestrator.planning.shared_ranges import find_unequal_ranges
from orchestrator.results.suite_cells import DONE, Cell, Key, describe_cell
from orchestrator.results.suite_files import TABLE_FILE
from orchestrator.results.suite_record import RECORD_FILE, SuiteRecord, describe_contrasts, read_history
from orchestrator.results.suite_results import BUDGET_TOLERANCE, SHARED

_AGAIN = "Write it again: orchestrator leaderboard"
_TOLERANCE = 1e-6


def list_work(cells: Mapping[Key, Cell]) -> list[str]:
    """Return the ids of everything that has run for a benchmark, searches first."""
    return [
        plan.id
        for part in ("searches", "races", "replaced", "finals")
        for cell in cells.values()
        for plan, _ in getattr(cell, part)
    ]


def audit_suite(
    record: SuiteRecord, cells: Mapping[Key, Cell], subjects: Mapping[str, Subject], report: Report
) -> None:
    """Check a benchmark as a whole; its sweeps and promotions are checked one by one elsewhere.

    Args:
        record: What was asked for last.
        cells: What has run.
        subjects: All of that, by id.
        report: Where findings go.
    """
    _check_record(record, report)
    for cell in cells.values():
        report.count("cells")
        _check_cell(record, cell, report)
    for dataset in record.spaces:
        own = [cell for cell in cells.values() if cell.dataset == dataset and cell.search is not None]
        _check_budgets(record, dataset, own, subjects, report)
        _check_ranges(record, dataset, own, report)
        _check_seeds(record, dataset, own, report)
        _check_shared(dataset, own, subjects, report)
    _check_table(record, cells, subjects, report)


def _check_record(record: SuiteRecord, report: Report) -> None:
    try:
        first = read_history(record.id)[0]
    except OrchestratorError as error:
        report.find("suite", record.id, str(error).rstrip("."), "Restore it from a copy")
        return
    if first.contrasts != record.contrasts:
        report.find(
            "contrasts",
            str(record.folder / RECORD_FILE),
            f"{describe_contrasts(first)} were registered before the first run, and {describe_contrasts(record)} are "
            f"reported",
            "Report the registered ones; call all others exploratory",
        )
    if (first.budget, first.settings) != (record.budget, record.settings):
        report.find(
            "budget",
            str(record.folder / RECORD_FILE),
            "its budget or its settings were changed after the first run",
            "Restore it from a copy, or run all cells again",
        )


def _check_cell(record: SuiteRecord, cell: Cell, report: Report) -> None:
    where = f"{cell.method} on {cell.dataset}"
    if len(cell.searches) > 1:
        listed = name_all(plan.id for plan, _ in cell.searches)
        report.find(
            "budget", where, f"it was searched {len(cell.searches)} times: {listed}", "Report the first search, or all"
        )
    if len(cell.races) > 1:
        report.find("luck", where, f"its best trials raced {len(cell.races)} times", "Report the first race")
    state, details = describe_cell(cell, record.seeds)
    if state != DONE:
        report.find(
            "unfinished",
            where,
            f"it is {state}{f' ({details})' if details else ''}, so the table has no figure for it",
            f"Continue: orchestrator resume {record.id}. If it failed, report it as failed",
        )


def _check_budgets(
    record: SuiteRecord, dataset: str, cells: Sequence[Cell], subjects: Mapping[str, Subject], report: Report
) -> None:
    """Check that every method's searches, all together, had what the others had."""
    behind = {cell.method: [subjects[plan.id] for plan, _ in cell.searches if plan.id in subjects] for cell in cells}
    behind = {method: searches for method, searches in behind.items() if searches}
    if record.budget.by == "images":
        amounts, unit = measure_budgets([search for searches in behind.values() for search in searches])
        left = iter(amounts)
        spent = {method: sum(next(left) for _ in searches) for method, searches in behind.items()}
    elif record.budget.by == "trials":
        unit = "trials"
        spent = {
            method: float(sum(len(search.state.records) for search in searches)) for method, searches in behind.items()
        }
    else:
        return
    if not spent:
        return
    report.count("budgets", len(spent))
    # A method of whom not even one more trial fits may be that far below; nobody may be above.
    usual = sorted(spent.values())[len(spent) // 2]
    for method, amount in spent.items():
        if amount > usual * (1 + BUDGET_TOLERANCE):
            report.find(
                "budget",
                f"{method} on {dataset}",
                f"its search took {amount:,.0f} {unit}, and that of the others {usual:,.0f}",
                "Give each the same budget, or state the budgets in the table",
            )
        elif amount < usual * (1 - BUDGET_TOLERANCE):
            report.find(
                "budget",
                f"{method} on {dataset}",
                f"its search took only {amount:,.0f} {unit}, and that of the others {usual:,.0f}",
                f"Continue it: orchestrator resume {record.id}. If its space has no more points, say so",
            )


def _check_ranges(record: SuiteRecord, dataset: str, cells: Sequence[Cell], report: Report) -> None:
    plans = [cell.searches[0][0] for cell in cells]
    if record.recipe == "published" or len(plans) < 2:
        return
    report.count("ranges that methods share")
    if (unequal := find_unequal_ranges(plans)) is not None:
        report.find("mixed", dataset, f"its methods were not tuned alike: {unequal}", "Search the same values for all")


def _check_seeds(record: SuiteRecord, dataset: str, cells: Sequence[Cell], report: Report) -> None:
    """Check that all methods were reported with the same seeds, none of them twice, and as many as registered."""
    seeds = {
        cell.method: [
            int(plan.start_from[trial]["loop.seed"] or 0) for plan, _ in cell.finals for trial in range(plan.num_final)
        ]
        for cell in cells
        if cell.finals
    }
    everywhere = set().union(*seeds.values()) if seeds else set()
    for method, own in seeds.items():
        report.count("lists of seeds")
        missing, twice = sorted(everywhere - set(own)), sorted({seed for seed in own if own.count(seed) > 1})
        if missing:
            report.find(
                "seeds",
                f"{method} on {dataset}",
                f"it lacks seed {name_all(missing)}, which others have: it was dropped, or is still to come",
                f"Continue: orchestrator resume {record.id}",
            )
        if twice:
            report.find("seeds", f"{method} on {dataset}", f"seed {name_all(twice)} counts twice", "Leave one out")


def _check_shared(dataset: str, cells: Sequence[Cell], subjects: Mapping[str, Subject], report: Report) -> None:
    found: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        rows = [row for plan, _ in cell.finals if plan.id in subjects for row in subjects[plan.id].rows]
        for name in SHARED if rows else ():
            found[name][tuple(sorted({str(row[name]) for row in rows}))].append(cell.method)
    for name, values in found.items():
        report.count("conditions that cells share")
        if len(values) > 1:
            listed = "; ".join(f"{name_all(value)[:40]} in {name_all(methods, 3)}" for value, methods in values.items())
            report.find(
                "mixed",
                dataset,
                f"its cells have {len(values)} different {SHARED[name]}: {listed}",
                "Compare only what shares them, or mark the cells that differ",
            )


def _check_table(
    record: SuiteRecord, cells: Mapping[Key, Cell], subjects: Mapping[str, Subject], report: Report
) -> None:
    """Check the figures of the table that was written last against the journals."""
    path = record.folder / TABLE_FILE
    if not path.exists():
        report.skip(f"{record.id} has no table yet: orchestrator leaderboard {record.id}")
        return
    try:
        told = {
            (cell["dataset"], cell["method"]): cell
            for found in json.loads(path.read_text(encoding="utf-8"))["datasets"]
            for cell in found["cells"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        report.find("table", str(path), f"it cannot be read ({error})", _AGAIN)
        return
    for key, said in told.items():
        right = _figures_of(cells[key], said.get("metric"), subjects) if key in cells else {}
        _compare(f"{path}, {key[1]} on {key[0]}", said, right, report)


def _figures_of(cell: Cell, metric: str | None, subjects: Mapping[str, Subject]) -> dict[int, float]:
    """Return training seed -> figure on the test set, from the journals."""
    figures = {}
    for plan, _ in cell.finals:
        values = subjects[plan.id].values if plan.id in subjects else {}
        for trial in range(plan.num_final):
            value = values.get((trial, "test", str(metric)))
            if value is not None:
                figures[int(plan.start_from[trial]["loop.seed"] or 0)] = value
    return figures


def _compare(where: str, said: Mapping[str, Any], right: Mapping[int, float], report: Report) -> None:
    if said.get("mean") is None:
        return
    report.count("figures of the table")
    scores = {int(seed): float(value) for seed, value in dict(said.get("scores") or {}).items()}
    dropped = sorted(set(right) - set(scores))
    if dropped:
        report.find(
            "seeds",
            where,
            f"it leaves out seed {name_all(dropped)}, which was planned with the others",
            "Put every planned seed into the table",
        )
    for seed, value in scores.items():
        if seed not in right or not math.isclose(value, right[seed], abs_tol=_TOLERANCE):
            known = "no such run" if seed not in right else f"{right[seed]:.4f}"
            report.find(
                "figure", where, f"seed {seed} has {value:.4f}, but the journals have {known}", "Write it again"
            )
    if scores and not math.isclose(float(said["mean"]), fmean(scores.values()), abs_tol=_TOLERANCE):
        report.find("figure", where, f"its mean is {said['mean']}, not that of its seeds", _AGAIN)
