"""Repeat every searcher over the tables, and reduce the simulated sweeps to the figures of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.search.searchers import BY_NAME, FINALISTS, SEARCHERS
from benchmarks.search.simulate import Outcome, simulate
from benchmarks.search.table import Floats, LookUp, Objective, read_table
from benchmarks.search.tables import TABLES
from orchestrator.planning.sweep_plan import Params
from orchestrator.results.earlier_points import POINTS_PER_SWEEP

_ONLY_BUDGET = 24
WORKERS = 4
"""Simulated trials at a time."""


@dataclass(frozen=True)
class Cell:
    """One searcher with one budget on one table.

    Attributes:
        table, look_up, searcher, num_trials: What was simulated.
        outcomes: One per repetition.
    """

    table: str
    look_up: LookUp
    searcher: str
    num_trials: int
    outcomes: tuple[Outcome, ...]

    def regrets(self, objective: Objective) -> Floats:
        """Return the final regret of each repetition, in units of best minus median."""
        finals = np.array([outcome.final for outcome in self.outcomes])
        return np.asarray((objective.best - finals) / (objective.best - objective.median))

    def cost(self, full: Cell) -> float:
        """Return the mean cost in parts of that of random search at full length."""
        mine, theirs = (np.mean([outcome.cost for outcome in cell.outcomes]) for cell in (self, full))
        return float(mine / theirs)


@dataclass(frozen=True)
class Task:
    """What one process simulates at a time."""

    table: str
    look_up: LookUp
    searcher: str
    num_trials: int


def list_tasks(
    tables: Sequence[str], look_ups: Sequence[LookUp], budgets: Sequence[int], *, fast: bool = False
) -> list[Task]:
    """Return what is to be simulated, the slow ones first, so that no process is left with one at the end.

    All get 24 trials and the first way of looking up; finalists get the other budgets too, and 24 trials with the other
    way.
    """
    tasks = [
        Task(table, look_up, searcher.name, budget)
        for table in tables
        for look_up in look_ups
        for searcher in SEARCHERS
        for budget in budgets
        if (budget != _ONLY_BUDGET) + (look_up != look_ups[0]) <= (searcher.name in FINALISTS)
        if not (searcher.is_slow and fast)
    ]
    return sorted(tasks, key=lambda task: (not BY_NAME[task.searcher].is_slow, -task.num_trials))


def run_tasks(tasks: Sequence[Task], folder: Path, repetitions: int, processes: int) -> Iterator[Cell]:
    """Simulate the tasks in parallel; yield each cell as it is done."""
    if processes == 1:
        yield from (run_task(task, folder, repetitions) for task in tasks)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        futures = [pool.submit(run_task, task, folder, repetitions) for task in tasks]
        yield from (future.result() for future in as_completed(futures))


def in_order(tasks: Sequence[Task], cells: Sequence[Cell]) -> list[Cell]:
    """Return cells in the order of their tasks, in whatever order they were finished."""
    by_task = {Task(cell.table, cell.look_up, cell.searcher, cell.num_trials): cell for cell in cells}
    return [by_task[task] for task in tasks]


def run_task(task: Task, folder: Path, repetitions: int) -> Cell:
    """Simulate one cell; repetition ``r`` has search seed ``r``."""
    objective, searcher = load_objective(task.table, task.look_up, folder), BY_NAME[task.searcher]
    outcomes = []
    for seed in range(repetitions):
        plan = searcher.plan(objective.table.spec.plan, task.num_trials, WORKERS, seed)
        if searcher.learns:
            plan = replace(plan, start_from=learned_points(task.table, folder))
        outcomes.append(simulate(plan, objective, seed, searcher.make_scheduler))
    return Cell(task.table, task.look_up, task.searcher, task.num_trials, tuple(outcomes))


@cache
def learned_points(table: str, folder: Path) -> tuple[Params, ...]:
    """Return the best points of the other tables, without the settings of their methods: leave one table out."""
    points: list[Params] = []
    for other in TABLES:
        if other != table and table_file(folder, other).is_file():
            found = read_table(other, table_file(folder, other))
            best = found.truth.argsort()[::-1][:POINTS_PER_SWEEP]
            points += [found.spec.points[found.configs[row]] for row in best.tolist()]
    return tuple({key: value for key, value in point.items() if not key.startswith("method.")} for point in points)


@cache
def load_objective(table: str, look_up: LookUp, folder: Path) -> Objective:
    """Return a table of a folder with its way of looking up; fitted once per process."""
    return Objective(read_table(table, table_file(folder, table)), look_up)


def table_file(folder: Path, table: str) -> Path:
    """Return where a table is."""
    return folder / f"search_{table}.parquet"


@dataclass(frozen=True)
class Reference:
    """Random search at full length, by what it has spent: mean regret of its best trial so far.

    Attributes:
        costs: Worker seconds, rising.
        regrets: (repetitions, costs).
    """

    costs: Floats
    regrets: Floats

    @classmethod
    def of(cls, cell: Cell, objective: Objective, num: int = 200) -> Reference:
        """Return the curve of the longest sweeps of random search."""
        longest = float(np.mean([outcome.cost for outcome in cell.outcomes]))
        costs = np.linspace(0, longest, num)
        rows = []
        for outcome in cell.outcomes:
            # Before its first trial has ended, a sweep has nothing better than a blind choice, the median.
            steps = np.searchsorted(outcome.costs, costs, side="right")
            values = np.array([objective.median, *outcome.chosen])[steps]
            rows.append((objective.best - values) / (objective.best - objective.median))
        return cls(costs, np.array(rows))

    def at(self, cost: float) -> Floats:
        """Return the regret of every repetition at a cost."""
        return np.asarray(self.regrets[:, int(np.searchsorted(self.costs, cost).clip(0, len(self.costs) - 1))])

    def cost_of(self, regret: float) -> float | None:
        """Return the cost at which the mean regret has come down to this, or None if it never does."""
        below = np.flatnonzero(self.regrets.mean(0) <= regret)
        return float(self.costs[below[0]]) if len(below) else None
