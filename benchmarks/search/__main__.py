"""Measure searchers on tables of finished runs.

    python -m benchmarks.search [--repetitions 24] [--processes 2] [--budgets 8 24 64]
    python -m benchmarks.search --pack FOLDER    # first take over the runs that benchmarks.search.grid has made

Writes ``results/search.md`` and ``results/search.svg`` from ``results/search_*.parquet``. The conclusions are in
``results/search_explained.md``, which the page begins with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.search.grid import RUNS_FILE, read_runs
from benchmarks.search.measure import list_tasks, run_tasks, table_file
from benchmarks.search.report import write_report
from benchmarks.search.table import LOOK_UPS, read_table, write_table
from benchmarks.search.tables import TABLES

MIN_POINTS = 24
"""A table with fewer says nothing about a search of as many trials."""
RESULTS = Path(__file__).parents[1] / "results"


def pack(folder: Path, out: Path) -> None:
    """Write the tables that a folder of runs has anything of."""
    lines = read_runs(folder / RUNS_FILE)
    for name in TABLES:
        if found := [line for line in lines if line["table"] == name]:
            write_table(table_file(out, name), found)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--budgets", type=int, nargs="+", default=[8, 24, 64])
    parser.add_argument("--look-ups", nargs="+", choices=LOOK_UPS, default=LOOK_UPS)
    parser.add_argument(
        "--fast", action="store_true", help="Leave out the Gaussian process, which takes half the time."
    )
    parser.add_argument("--tables", type=Path, default=RESULTS, help="Folder of the Parquet files.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="Write the Parquet files from this folder first.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.pack is not None:
        pack(arguments.pack, arguments.tables)
    known = [name for name in TABLES if table_file(arguments.tables, name).is_file()]
    large = [name for name in known if len(read_table(name, table_file(arguments.tables, name)).configs) >= MIN_POINTS]
    for name in set(known) - set(large):
        print(f"{name} has fewer than {MIN_POINTS} points: left out until benchmarks.search.grid has trained more.")
    if not large:
        sys.exit("There is nothing to measure on. Train more: python -m benchmarks.search.grid --folder FOLDER")
    tasks = list_tasks(large, arguments.look_ups, arguments.budgets, fast=arguments.fast)
    cells = []
    for count, cell in enumerate(run_tasks(tasks, arguments.tables, arguments.repetitions, arguments.processes), 1):
        cells.append(cell)
        print(f"{count}/{len(tasks)} {cell.table}, {cell.look_up}, {cell.num_trials}: {cell.searcher}", flush=True)
    explained = (RESULTS / "search_explained.md").read_text(encoding="utf-8")
    write_report(cells, arguments.tables, arguments.out, explained)


if __name__ == "__main__":
    main()
