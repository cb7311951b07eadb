"""Prints benchmarks: the grid of cells for `status`, and the main table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.output import format_score, print_csv, print_json, print_line, print_next, print_table, print_text
from orchestrator.durations import format_seconds
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.results.suite_results import CellResult, ContrastResult, DatasetResult, SuiteResults
    from orchestrator.sweep_folder.spent import Spent


def print_grid(suite_id: str, *, json: bool = False) -> None:
    """Print what every cell of a benchmark is doing."""
    from orchestrator.results.suite_cells import describe_cell, read_cells
    from orchestrator.results.suite_record import read_record
    from orchestrator.suite.run import is_worked_on

    record = read_record(suite_id)
    cells = read_cells(record)
    states = {key: describe_cell(cell, record.seeds) for key, cell in cells.items()}
    if json:
        rows = [
            {
                "dataset": dataset,
                "method": method,
                "state": state,
                "details": details,
                "sweeps": [plan.id for plan, _ in cells[dataset, method].all],
            }
            for (dataset, method), (state, details) in states.items()
        ]
        print_json({"suite": record.id, "seeds": record.seeds, "budget": vars(record.budget), "cells": rows})
        return
    counts: dict[str, int] = {}
    for state, _ in states.values():
        counts[state] = counts.get(state, 0) + 1
    listed = ", ".join(f"{num} {state}" for state, num in counts.items())
    print_line(f"{record.id}: benchmark of {counted(len(cells), 'cell')}, {listed}")
    print_line(f"  budget {record.budget}, {record.seeds} seeds; registered {record.utc}")
    table = []
    for (dataset, method), (state, details) in states.items():
        cell = cells[dataset, method]
        images = _images(cell.spent()) if cell.search else ""
        search = "" if cell.search is None else cell.search[0].id
        table.append((dataset, method, state, details, images, search))
    print_table(
        ["dataset", "method", "state", "details", "images", "search"], table, right=[4], wrapped=[3], drop=[5, 4]
    )
    if is_worked_on(record):
        print_line("A process is working on it.")
    elif set(counts) != {"done"}:
        print_next({f"resume {record.id}": "continue it", f"report {record.id}": "a page of what is done"})
    else:
        print_next(
            {
                f"leaderboard {record.id}": "its table",
                f"report {record.id}": "a page, and its tables for a paper",
                f"audit {record.id}": "check that the figures hold",
            }
        )


def print_results(suite_id: str, *, allow_mixed: bool = False, json: bool = False, csv: bool = False) -> None:
    """Print the main table of a benchmark, and write its rows next to its record.

    Raises:
        UserError: Its cells cannot be compared.
    """
    from orchestrator.results.suite_files import write_suite_results
    from orchestrator.results.suite_results import read_suite

    found = read_suite(suite_id, allow_mixed=allow_mixed)
    write_suite_results(found)
    if json:
        print_json(found.to_json())
    elif csv:
        print_csv([_flat(cell) for cell in found.cells])
    else:
        for line in render_settings(found):
            print_text(line)
        for dataset in found.datasets:
            _print_dataset(found, dataset)
        _print_contrasts(found)


def render_settings(found: SuiteResults) -> list[str]:
    """Return what the figures refer to."""
    record = found.record
    return [
        f"{record.id}: search budget {record.budget} for each method; the same {record.seeds} fresh seeds for all, "
        f"which chose nothing",
        *(f"note: {mark}" for mark in found.marks),
    ]


def _flat(cell: CellResult) -> dict[str, object]:
    return {
        "dataset": cell.dataset,
        "method": cell.method,
        "bound": cell.is_bound,
        "marks": "; ".join(cell.marks),
        "state": cell.state,
        "metric": cell.metric,
        "mean": cell.mean,
        "low": cell.low,
        "high": cell.high,
        "seeds": len(cell.scores),
        "tie_group": cell.group,
        "p_best": cell.best_prob,
        "trials": cell.trials,
        **{
            f"images_{part}": None if spent is None else spent.images
            for part, spent in (("search", cell.search), ("race", cell.race), ("reported", cell.reported))
        },
        "images_total": None if cell.total is None else cell.total.images,
        "held_s": None if cell.total is None else cell.total.held_s,
        "gpu_seconds": None if cell.total is None else cell.total.gpu_seconds,
        "openings": " ".join(map(str, cell.openings)),
    }


def _print_dataset(found: SuiteResults, dataset: DatasetResult) -> None:
    print_line(
        f"{dataset.dataset}, {dataset.metric or 'no cell is done yet'}" + (" in percent" if dataset.metric else "")
    )
    headers = ["method", "mean", "95 %", "seeds", "tie", "P(best)", "trials", "opening"]
    print_table(headers, [_row(cell) for cell in dataset.cells], right=[1, 3, 4, 5, 6, 7], drop=[7])
    costs = [_cost_row(cell) for cell in dataset.cells if cell.total is not None]
    if costs:
        print_line("what it took: images passed forward and backward, and time")
        print_table(["method", "search", "race", "reported runs", "GPU", "time"], costs, right=[1, 2, 3, 4, 5])
    for line in render_notes(found, dataset):
        print_text(line)


def _row(cell: CellResult) -> tuple[object, ...]:
    name = f"{cell.method} ({cell.told})" if cell.told else cell.method
    if cell.mean is None or cell.low is None or cell.high is None:
        return (name, cell.state, cell.details, *[None] * 5)
    return (
        name,
        format_score(cell.mean),
        f"{cell.low:.2f} to {cell.high:.2f}",
        len(cell.scores),
        cell.group,
        None if cell.best_prob is None else f"{cell.best_prob:.2f}",
        cell.trials,
        ", ".join(map(str, cell.openings)),
    )


def _cost_row(cell: CellResult) -> tuple[object, ...]:
    total = cell.total
    assert total is not None
    return (
        cell.method,
        *(_images(spent) for spent in (cell.search, cell.race, cell.reported)),
        format_seconds(total.gpu_seconds) if total.gpu_seconds else None,
        format_seconds(total.held_s),
    )


def _images(spent: Spent | None) -> str:
    return "" if spent is None or spent.images is None else f"{spent.images:,.0f}"


def render_notes(found: SuiteResults, dataset: DatasetResult) -> list[str]:
    """Return the lines under the table of a dataset."""
    lines = [f"note: {mark}" for mark in dataset.marks]
    lines.append(
        "95 %: Student's t interval for the mean over training seeds. Methods with the same number under tie cannot be "
        "told apart from the best of them (paired t, Holm). The budget is for the search; race and reported runs "
        "come on top. time: for which all runs held their resources, one after the other."
    )
    if dataset.floor is not None:
        num = max(1, len(found.record.contrasts))
        lines.append(
            f"smallest difference that can be significant here: about {dataset.floor:.2f} points"
            + (f", as the first of {num} contrasts" if num > 1 else "")
            + "; less for two methods whose difference varies less from seed to seed than that of most pairs"
        )
    if dataset.openings is not None:
        lines.append(str(dataset.openings))
    return lines


def _print_contrasts(found: SuiteResults) -> None:
    if not found.contrasts:
        return
    print_line("registered contrasts, paired by seed; p after Holm's correction")
    rows = [_contrast_row(contrast) for contrast in found.contrasts]
    print_table(["contrast", "dataset", "difference", "95 %", "p", "p Holm", "significant"], rows, right=[2, 4, 5])


def _contrast_row(contrast: ContrastResult) -> tuple[object, ...]:
    from orchestrator.results.comparison import format_p

    name = f"{contrast.method} - {contrast.against}"
    found = contrast.difference
    if found is None:
        return name, contrast.dataset, "not yet", None, None, None, None
    return (
        name,
        contrast.dataset,
        f"{found.mean:+.2f}",
        f"{found.low:+.2f} to {found.high:+.2f}",
        format_p(found.p),
        "" if contrast.p_holm is None else format_p(contrast.p_holm),
        "yes" if contrast.is_significant else "no",
    )
