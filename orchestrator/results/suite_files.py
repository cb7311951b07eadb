"""Write a benchmark's results next to its record: the rows of all its runs, and the figures of its table."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.results.suite_cells import read_cells
from orchestrator.results.suite_results import SuiteResults, list_rows
from orchestrator.sweep_folder.rows import RESULTS_FILE, write_table
from training.files import write_whole

TABLE_FILE = "table.json"


def write_suite_results(found: SuiteResults) -> Path:
    """Write ``results.parquet`` and ``table.json``; return the folder."""
    folder = found.record.folder
    write_table(folder / RESULTS_FILE, list_rows(read_cells(found.record).values()))
    write_whole(folder / TABLE_FILE, json.dumps(found.to_json(), indent=1) + "\n")
    return folder
