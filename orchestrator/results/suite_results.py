"""The results of a benchmark: its main table, its registered contrasts, and the rows behind them.

:func:`read_suite` returns them as dataclasses, :func:`read_suite_frame` as a pandas DataFrame of the rows. Every mean
is over the final runs' figures on the test set, one for each of the common fresh seeds; a cell with a failed run has no
mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UserError
from orchestrator.intervals import mean_interval
from orchestrator.results.comparison import (
    ALPHA,
    Difference,
    compare_paired,
    correct_holm,
    find_best_probs,
    find_floor,
    group_ties,
    pool_difference_sd,
)
from orchestrator.results.opened_test import TestOpenings, count_test_openings
from orchestrator.results.suite_cells import DONE, Cell, describe_cell, read_cells
from orchestrator.results.suite_record import SuiteRecord, read_record
from orchestrator.sweep_folder.promotion_report import find_test_metric
from orchestrator.sweep_folder.rows import make_table, read_rows
from orchestrator.sweep_folder.spent import Spent, sum_spent
from training.config.marks import find_marks

if TYPE_CHECKING:
    import pandas as pd

SHARED = {
    "protocol": "protocols",
    "recipe": "recipes",
    "data_hash": "data",
    "weights_hash": "initial weights",
    "world_size": "numbers of workers",
    "draw_seed": "label draws",
    "environment_hash": "versions of libraries",
}
"""What all cells of one dataset must share to be compared -> how it is called."""


BUDGET_TOLERANCE = 0.05
"""Relative difference up to which two searches count as equally long: trials of equal length may differ in warm-up."""


@dataclass(frozen=True)
class CellResult:
    """One method on one dataset.

    Attributes:
        marks: What it knows that a user with single positives does not, such as a full-label statistic; see
            :func:`training.config.marks.find_marks`.
        state, details: As :func:`orchestrator.results.suite_cells.describe_cell` says; only ``done`` has scores.
        metric: Of the test set; ``test/observed_mAP`` where only observed labels exist.
        scores: Training seed -> its figure in percent.
        mean, low, high: Over the seeds, with Student's t interval.
        group: Which methods it is tied with; None for bounds, and without scores.
        best_prob: Probability that its true mean is the highest.
        trials: Trials of its search.
        search, race, reported, total: What the search, the race, the final runs, and everything has cost.
        is_cut: Whether the limit of GPU-hours has ended its search before the budget was spent.
        openings: Numbers of its lines in the test ledger.
        conditions: ``SHARED`` -> values, and the commits.
    """

    dataset: str
    method: str
    is_bound: bool
    state: str
    details: str
    marks: tuple[str, ...] = ()
    metric: str | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    group: int | None = None
    best_prob: float | None = None
    trials: int = 0
    search: Spent | None = None
    race: Spent | None = None
    reported: Spent | None = None
    total: Spent | None = None
    is_cut: bool = False
    openings: tuple[int, ...] = ()
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """What a reader must know about the method, as text, ``bound`` first."""
        return ", ".join([*(["bound"] if self.is_bound else []), *self.marks])


@dataclass(frozen=True)
class DatasetResult:
    """The cells of one dataset: those with scores by their mean, the best first, then the others, then bounds.

    Attributes:
        metric: Of the test set; None before the first cell is done.
        floor: The smallest difference, in points, that can be significant as the first of all registered contrasts, if
            it varies from seed to seed as the difference of two methods does on average.
        openings: Of its test set, by everybody.
        marks: Why cells cannot simply be compared.
    """

    dataset: str
    metric: str | None
    cells: tuple[CellResult, ...]
    floor: float | None
    openings: TestOpenings | None
    marks: tuple[str, ...]


@dataclass(frozen=True)
class ContrastResult:
    """A registered comparison.

    Attributes:
        difference: First minus second; None if one of the two has no result.
        p_holm: After Holm's correction over all registered contrasts; those without a result count with p = 1.
    """

    method: str
    against: str
    dataset: str
    difference: Difference | None
    p_holm: float | None

    @property
    def is_significant(self) -> bool:
        """Whether it differs from 0 at the level of 5 %."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class SuiteResults:
    """A benchmark's results.

    Attributes:
        record: What was asked for.
        marks: What a reader must know about all of it.
    """

    record: SuiteRecord
    datasets: tuple[DatasetResult, ...]
    contrasts: tuple[ContrastResult, ...]
    marks: tuple[str, ...]

    @property
    def cells(self) -> tuple[CellResult, ...]:
        """All cells."""
        return tuple(cell for dataset in self.datasets for cell in dataset.cells)

    def to_json(self) -> dict[str, Any]:
        """Return everything under plain names."""
        plain = asdict(self)
        for contrast, found in zip(plain["contrasts"], self.contrasts, strict=True):
            contrast["is_significant"] = found.is_significant
        return plain


def read_suite(suite_id: str, *, allow_mixed: bool = False) -> SuiteResults:
    """Return the results of a benchmark as far as it is done.

    Args:
        suite_id: Its id.
        allow_mixed: Compare cells that do not share their conditions too, and mark them.

    Raises:
        UserError: Cells of one dataset do not share what they must share to be compared.
        OrchestratorError: The record cannot be read.
    """
    record = read_record(suite_id)
    return make_suite_results(record, read_cells(record), allow_mixed=allow_mixed)


def read_suite_frame(suite_id: str) -> pd.DataFrame:
    """Return the rows of all runs of a benchmark: of searches, races and final runs; see ``sweep_folder.rows``."""
    return make_table(list_rows(read_cells(read_record(suite_id)).values())).to_pandas()


def list_rows(cells: Sequence[Cell] | Any) -> list[dict[str, Any]]:
    """Return the rows of all runs of some cells."""
    return [row for cell in cells for plan, state in cell.all for row in read_rows(plan, state)]


def make_suite_results(
    record: SuiteRecord, cells: Mapping[tuple[str, str], Cell], *, allow_mixed: bool = False
) -> SuiteResults:
    """Return the results of a benchmark from what has run; see :func:`read_suite`."""
    datasets = tuple(
        _of_dataset(record, dataset, [_of_cell(record, cell) for key, cell in cells.items() if key[0] == dataset])
        for dataset in record.spaces
    )
    mixed = [f"{found.dataset}: {mark}" for found in datasets for mark in found.marks if mark.startswith("mixes ")]
    if mixed and not allow_mixed:
        raise UserError(
            f"The cells of {record.id} cannot be compared. {'; '.join(mixed)}. Run those that differ again under the "
            f"conditions of the others, or compare them all the same, marked, with --allow-mixed."
        )
    by_key = {(cell.dataset, cell.method): cell for found in datasets for cell in found.cells}
    return SuiteResults(record, datasets, _contrast(record, by_key), _mark(record, list(by_key.values())))


def _of_cell(record: SuiteRecord, cell: Cell) -> CellResult:
    state, details = describe_cell(cell, record.seeds)
    search = (cell.search,) if cell.search is not None else ()
    common: dict[str, Any] = {
        "dataset": cell.dataset,
        "method": cell.method,
        "is_bound": cell.method in record.bounds,
        "state": state,
        "details": details,
        "marks": find_marks(search[0][0].base) if search else (),
        "trials": len(search[0][1].records) if search else 0,
        "search": sum_spent(search) if search else None,
        "race": sum_spent(cell.races) if search else None,
        "reported": sum_spent((*cell.replaced, *cell.finals)) if search else None,
        "total": cell.spent() if search else None,
        "is_cut": cell.search is not None and cell.search[1].is_limited,
        "openings": tuple(found.test.opening for _, found in cell.finals if found.test and found.test.opening),
    }
    if state != DONE:
        return CellResult(**common)
    metric = _metric(cell)
    scores = {} if metric is None else _read_scores(cell, metric)
    if not scores:
        return CellResult(**{**common, "state": "failed", "details": "the test split has no images"})
    values = list(scores.values())
    low, high = mean_interval(values)
    mean = statistics.fmean(values)
    return CellResult(
        **common, metric=metric, scores=scores, mean=mean, low=low, high=high, conditions=_conditions(cell)
    )


def _read_scores(cell: Cell, metric: str) -> dict[int, float]:
    scores = {}
    for plan, state in cell.finals:
        figures = {} if state.test is None else state.test.figures
        for trial in range(plan.num_final):
            if metric in (found := figures.get(str(trial), {})):
                scores[int(plan.start_from[trial]["loop.seed"] or 0)] = found[metric]
    return scores


def _metric(cell: Cell) -> str | None:
    figures = [figure for _, state in cell.finals if state.test is not None for figure in state.test.figures.values()]
    return find_test_metric(figures)


def _conditions(cell: Cell) -> dict[str, tuple[str, ...]]:
    rows = [row for plan, state in cell.finals for row in read_rows(plan, state)]
    return {name: tuple(sorted({str(row[name]) for row in rows})) for name in (*SHARED, "commit", "dirty")}


def _of_dataset(record: SuiteRecord, dataset: str, cells: list[CellResult]) -> DatasetResult:
    scored = {cell.method: cell for cell in cells if cell.scores}
    marks = (*_find_mixed(scored), *_find_unequal(record, scored), *_find_cut(scored))
    compared = {method: cell for method, cell in scored.items() if not cell.is_bound}
    common = set.intersection(*(set(cell.scores) for cell in compared.values())) if compared else set()
    figures = {method: [cell.scores[seed] for seed in sorted(common)] for method, cell in compared.items()}
    groups, probs, floor = _compare(figures, len(record.contrasts)) if len(common) > 1 else ({}, {}, None)
    finished = [replace(cell, group=groups.get(cell.method), best_prob=probs.get(cell.method)) for cell in cells]
    hashes = {value for cell in scored.values() for value in cell.conditions["data_hash"]}
    openings = count_test_openings(hashes.pop()) if len(hashes) == 1 else None
    metric = next((cell.metric for cell in scored.values()), None)
    return DatasetResult(dataset, metric, tuple(sorted(finished, key=_order)), floor, openings, marks)


def _compare(
    figures: Mapping[str, Sequence[float]], num_contrasts: int
) -> tuple[dict[str, int], dict[str, float], float | None]:
    sd = pool_difference_sd(figures)
    num_seeds = len(next(iter(figures.values())))
    floor = None if sd is None else sd * find_floor(num_seeds, max(1, num_contrasts))
    return group_ties(figures), find_best_probs(figures), floor


def _order(cell: CellResult) -> tuple[bool, bool, float]:
    return cell.is_bound, cell.mean is None, -(cell.mean or 0.0)


def _find_mixed(scored: Mapping[str, CellResult]) -> tuple[str, ...]:
    marks = []
    for name, words in SHARED.items():
        by_value: dict[tuple[str, ...], list[str]] = {}
        for method, cell in scored.items():
            by_value.setdefault(cell.conditions[name], []).append(method)
        if len(by_value) > 1:
            listed = "; ".join(f"{', '.join(value)[:40]} in {', '.join(which)}" for value, which in by_value.items())
            marks.append(f"mixes {words}: {listed}")
    return tuple(marks)


def _find_unequal(record: SuiteRecord, scored: Mapping[str, CellResult]) -> tuple[str, ...]:
    """Return a mark if searches spent different budgets: one was extended, say, or ran out of points."""
    images = {method: cell.search.images for method, cell in scored.items() if cell.search and cell.search.images}
    if (
        record.budget.by != "images"
        or not images
        or max(images.values()) <= min(images.values()) * (1 + BUDGET_TOLERANCE)
    ):
        return ()
    listed = ", ".join(f"{method} {amount:,.0f}" for method, amount in images.items())
    return (f"searches took different numbers of images: {listed}",)


def _find_cut(scored: Mapping[str, CellResult]) -> tuple[str, ...]:
    cut = [method for method, cell in scored.items() if cell.is_cut]
    return (f"the limit of GPU-hours ended searches before their budget: {', '.join(cut)}",) if cut else ()


def _contrast(record: SuiteRecord, by_key: Mapping[tuple[str, str], CellResult]) -> tuple[ContrastResult, ...]:
    differences = [
        _difference(by_key.get((dataset, first)), by_key.get((dataset, second)))
        for first, second, dataset in record.contrasts
    ]
    corrected = correct_holm([1.0 if found is None else found.p for found in differences])
    return tuple(
        ContrastResult(*contrast, found, None if found is None else p)
        for contrast, found, p in zip(record.contrasts, differences, corrected, strict=True)
    )


def _difference(first: CellResult | None, second: CellResult | None) -> Difference | None:
    if first is None or second is None:
        return None
    common = sorted(set(first.scores) & set(second.scores))
    if len(common) < 2:
        return None
    return compare_paired([first.scores[seed] for seed in common], [second.scores[seed] for seed in common])


def _mark(record: SuiteRecord, cells: Sequence[CellResult]) -> tuple[str, ...]:
    marks = []
    if record.budget.by != "images":
        what = (
            "trials cost more for some methods than for others"
            if record.budget.by == "trials"
            else "hours differ from machine to machine"
        )
        marks.append(f"budget by {record.budget.by}, not by images: {what}")
    commits = {commit for cell in cells for commit in cell.conditions.get("commit", ())}
    if len(commits) > 1:
        marks.append(f"cells of {len(commits)} commits: {', '.join(sorted(commit[:12] for commit in commits))}")
    if any("true" in cell.conditions.get("dirty", ()) for cell in cells):
        marks.append("some cells had code with changes that were not committed")
    return tuple(marks)
