"""A benchmark as its report looks at it: its results, what has run for each cell, and where every figure comes from."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.home import clean_name
from orchestrator.intervals import mean_interval
from orchestrator.results.suite_cells import DONE, Cell, Key, Work, read_cells
from orchestrator.results.suite_record import SuiteRecord, read_record
from orchestrator.results.suite_results import CellResult, DatasetResult, SuiteResults, make_suite_results
from orchestrator.sweep_folder.rows import read_rows
from training.config.run import Scalar

_TEST = "test"


@dataclass(frozen=True)
class Measured:
    """The mean of a metric over a cell's seeds, in percent.

    Attributes:
        half: Half of its 95 % interval (Student's t); None of a single seed.
    """

    mean: float
    half: float | None
    num: int


class SuiteView:
    """A benchmark with everything that is derived from it.

    Attributes:
        record: What was asked for.
        cells: What has run.
        found: Its results.
    """

    def __init__(self, record: SuiteRecord, cells: Mapping[Key, Cell], found: SuiteResults) -> None:
        self.record, self.cells, self.found = record, cells, found
        self._anchors = {key: f"cell-{number}" for number, key in enumerate(cells)}

    @property
    def unfinished(self) -> list[CellResult]:
        """The cells that have no result yet, or will have none."""
        return [cell for cell in self.found.cells if cell.state != DONE]

    def anchor(self, cell: CellResult) -> str:
        """Return the anchor of a cell's row in the table of origins."""
        return self._anchors[cell.dataset, cell.method]

    def of(self, cell: CellResult) -> Cell:
        """Return what has run for a cell."""
        return self.cells[cell.dataset, cell.method]

    def of_dataset(self, dataset: str) -> str:
        """Return what to put behind the names of a dataset's tables; nothing if there is one dataset."""
        return f"-{clean_name(dataset)}" if len(self.found.datasets) > 1 else ""

    def settings(self, cell: CellResult) -> dict[str, Scalar]:
        """Return the settings of a cell's runs, those of its final ones if they have begun; empty before the search."""
        works = self.of(cell).finals or self.of(cell).searches
        if not works:
            return {}
        plan = works[0][0]
        return {**plan.base, **(plan.start_from[0] if plan.kind == "promote" else {})}

    @cached_property
    def final_rows(self) -> dict[Key, list[dict[str, Any]]]:
        """Cell -> rows of the winner's final runs, as in Parquet (:mod:`orchestrator.sweep_folder.rows`)."""
        return {key: list(_list_final_rows(cell.finals)) for key, cell in self.cells.items()}

    def test_rows(self, cell: CellResult) -> list[dict[str, Any]]:
        """Return the rows of a cell's final runs on the test split; none before it is done."""
        rows = self.final_rows[cell.dataset, cell.method] if cell.scores else []
        return [row for row in rows if row["split"] == _TEST]

    def measure(self, cell: CellResult, metric: str) -> Measured | None:
        """Return a metric of the test split over a cell's seeds, or None where it was not measured."""
        values = [row["value"] for row in self.test_rows(cell) if row["metric"] == f"{_TEST}/{metric}"]
        if not values or any(value is None for value in values):
            return None
        mean = statistics.fmean(values)
        return Measured(mean, mean_interval(values)[1] - mean if len(values) > 1 else None, len(values))


def read_view(suite_id: str, *, allow_mixed: bool = False) -> SuiteView:
    """Read a benchmark.

    Raises:
        UserError: Its cells cannot be compared.
        OrchestratorError: Its record cannot be read.
    """
    record = read_record(suite_id)
    cells = read_cells(record)
    return SuiteView(record, cells, make_suite_results(record, cells, allow_mixed=allow_mixed))


def name_metric(dataset: DatasetResult) -> str:
    """Return the metric of a dataset's figures as a reader calls it."""
    return dataset.metric or f"{_TEST}/mAP"


def _list_final_rows(finals: Iterable[Work]) -> Iterable[dict[str, Any]]:
    for plan, state in finals:
        yield from (row for row in read_rows(plan, state) if row["trial"] < plan.num_final)
