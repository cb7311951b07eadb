"""Keep simulated cells in a file, one line each, so that a kill loses none that is finished.

A cell is found again only if nothing has changed that it depends on: the tables, the number of repetitions, the code of
the simulation and of what it simulates, and the version of Optuna.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import benchmarks.search
import orchestrator.trials
import search_spaces
from benchmarks.search.lines import append_line, read_lines
from benchmarks.search.measure import Cell, Task, table_file
from benchmarks.search.simulate import Outcome
from benchmarks.search.tables import TABLES

CELLS_FILE = "cells.jsonl"


class StoredCells:
    """The finished cells in a folder.

    Args:
        folder: Where the file is; made if it does not exist.
        tables: Folder of the Parquet files.
        repetitions: Of every cell.
    """

    def __init__(self, folder: Path, tables: Path, repetitions: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / CELLS_FILE
        self._origin = hash_origin(tables, repetitions)
        self._found = {_key(line): _read(line) for line in read_lines(self._path) if line["origin"] == self._origin}

    def find(self, task: Task) -> Cell | None:
        """Return the cell of a task, if it is there."""
        return self._found.get((task.table, task.look_up, task.searcher, task.num_trials))

    def add(self, cell: Cell) -> None:
        """Write a finished cell."""
        append_line(self._path, {"origin": self._origin, **asdict(cell)})


def hash_origin(tables: Path, repetitions: int) -> str:
    """Return a hash of all that a cell depends on besides its task."""
    digest = hashlib.sha256(f"{repetitions} {metadata.version('optuna')}".encode())
    files = [table_file(tables, name) for name in TABLES]
    for package in (benchmarks.search, orchestrator.trials, search_spaces):
        files += sorted(path for path in Path(package.__path__[0]).rglob("*") if path.suffix in (".py", ".yaml"))
    for path in files:
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _key(line: dict[str, Any]) -> tuple[str, str, str, int]:
    return line["table"], line["look_up"], line["searcher"], line["num_trials"]


def _read(line: dict[str, Any]) -> Cell:
    outcomes = tuple(Outcome(**outcome) for outcome in line["outcomes"])
    return Cell(*_key(line), outcomes)  # type: ignore[arg-type]
