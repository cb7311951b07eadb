"""Measure searchers on tables of finished runs.

    python -m benchmarks.search [--repetitions 30] [--processes 2] [--budgets 8 24 64] [--cells FOLDER]
    python -m benchmarks.search --pack FOLDER    # first take over the runs that benchmarks.search.grid has made

Writes ``results/search.md`` and ``results/search.svg`` from ``results/search_*.parquet``. The conclusions are in
``results/search_explained.md``, which the page begins with. Each finished cell (a searcher with a budget on a table) is
kept in the folder of ``--cells``, so the same command goes on where it was killed. A table that is not complete is left
out unless ``--partial`` asks for it, and then marked in every figure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.search.grid import RUNS_FILE
from benchmarks.search.lines import read_lines
from benchmarks.search.measure import in_order, list_tasks, run_tasks, table_file
from benchmarks.search.report import write_report
from benchmarks.search.stored import StoredCells
from benchmarks.search.table import LOOK_UPS, read_table, write_table
from benchmarks.search.tables import TABLES

MIN_POINTS = 24
"""A table with fewer says nothing about a search of as many trials."""
RESULTS = Path(__file__).parents[1] / "results"


def pack(folder: Path, out: Path) -> None:
    """Write the tables that a folder of runs has anything of."""
    lines = read_lines(folder / RUNS_FILE)
    for name in TABLES:
        if found := [line for line in lines if line["table"] == name]:
            write_table(table_file(out, name), found)


def choose_tables(folder: Path, *, partial: bool) -> list[str]:
    """Return the tables that can be measured on, and say why others are left out."""
    chosen = []
    for name in TABLES:
        if not table_file(folder, name).is_file():
            continue
        table = read_table(name, table_file(folder, name))
        if len(table.configs) < MIN_POINTS:
            print(f"{name} has fewer than {MIN_POINTS} points: left out until benchmarks.search.grid has trained more.")
        elif not (table.is_complete or partial):
            print(f"{name} is PARTIAL, {table.progress}: left out. Finish it, or see what it says so far: --partial")
        else:
            chosen.append(name)
    return chosen


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--budgets", type=int, nargs="+", default=[8, 24, 64])
    parser.add_argument("--look-ups", nargs="+", choices=LOOK_UPS, default=LOOK_UPS)
    parser.add_argument(
        "--fast", action="store_true", help="Leave out the Gaussian process, which takes most of the time."
    )
    parser.add_argument("--tables", type=Path, default=RESULTS, help="Folder of the Parquet files.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--cells", type=Path, default=RESULTS.parent / ".search_cells", help="Folder that keeps finished cells."
    )
    parser.add_argument(
        "--partial", action="store_true", help="Measure on tables that are not complete, and mark them."
    )
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="Write the Parquet files from this folder first.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.pack is not None:
        pack(arguments.pack, arguments.tables)
    large = choose_tables(arguments.tables, partial=arguments.partial)
    if not large:
        sys.exit("There is nothing to measure on. Train more: python -m benchmarks.search.grid --folder FOLDER")
    tasks = list_tasks(large, arguments.look_ups, arguments.budgets, fast=arguments.fast)
    stored = StoredCells(arguments.cells, arguments.tables, arguments.repetitions)
    found = {task: cell for task in tasks if (cell := stored.find(task)) is not None}
    left = [task for task in tasks if task not in found]
    if found:
        print(f"{len(found)} of {len(tasks)} cells are in {arguments.cells}")
    new = []
    for count, cell in enumerate(run_tasks(left, arguments.tables, arguments.repetitions, arguments.processes), 1):
        stored.add(cell)
        new.append(cell)
        print(f"{count}/{len(left)} {cell.table}, {cell.look_up}, {cell.num_trials}: {cell.searcher}", flush=True)
    cells = in_order(tasks, [*found.values(), *new])
    explained = (RESULTS / "search_explained.md").read_text(encoding="utf-8")
    write_report(cells, arguments.tables, arguments.out, explained)


if __name__ == "__main__":
    main()
