"""Find what has run for each cell of a benchmark, and say how it is doing."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.follow_up import drop_replaced
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.suite_record import SuiteRecord
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.records import TrialState, best
from orchestrator.sweep_folder.spent import Spent, sum_spent
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep

DONE, FAILED, WAITING, STOPPED = "done", "failed", "waiting", "stopped"

Key = tuple[str, str]
"""(dataset, method)."""
Work = tuple[SweepPlan, SweepState]


@dataclass(frozen=True)
class Cell:
    """What has run for one method on one dataset.

    Attributes:
        searches: Its sweeps; more than one would be a second search.
        races: The races of their best trials.
        finals: Their final runs on fresh seeds, the first ones first.
        replaced: Final runs of which one failed, so that all were run again.
        broken: Ids of those that cannot be read.
    """

    dataset: str
    method: str
    searches: tuple[Work, ...] = ()
    races: tuple[Work, ...] = ()
    finals: tuple[Work, ...] = ()
    broken: tuple[str, ...] = ()
    replaced: tuple[Work, ...] = ()

    @property
    def search(self) -> Work | None:
        """The first search."""
        return self.searches[0] if self.searches else None

    @property
    def all(self) -> tuple[Work, ...]:
        """Everything that has run."""
        return (*self.searches, *self.races, *self.replaced, *self.finals)

    def spent(self) -> Spent:
        """Return what everything has cost."""
        return sum_spent(self.all)


def read_cell(record: SuiteRecord, key: Key) -> Cell:
    """Return one cell of a benchmark, with what has run for it."""
    return _read(record, [key])[key]


def read_cells(record: SuiteRecord) -> dict[Key, Cell]:
    """Return every cell of a benchmark, with what has run for it."""
    return _read(record, record.cells)


def _read(record: SuiteRecord, keys: list[Key]) -> dict[Key, Cell]:
    """Return cells; only their own journals are read."""
    found: dict[Key, dict[str, list[Work]]] = {key: {"sweep": [], "race": [], "promote": []} for key in keys}
    broken: dict[Key, list[str]] = {}
    # The latest comes first; the first search and the first seeds are to come first.
    for entry in reversed(list_sweeps(kinds={"sweep", "race", "promote"})):
        try:
            plan = load_plan(entry.id)
        except (OrchestratorError, UserError):
            continue
        key = plan.dataset, plan.method
        if plan.suite != record.id or key not in found:
            continue
        try:
            found[key][plan.kind].append(read_sweep(entry.id))
        except OrchestratorError:
            broken.setdefault(key, []).append(entry.id)
    return {key: _make_cell(key, work, tuple(broken.get(key, ()))) for key, work in found.items()}


def _make_cell(key: Key, work: dict[str, list[Work]], broken: tuple[str, ...]) -> Cell:
    kept = {plan.id for plan in drop_replaced([plan for plan, _ in reversed(work["promote"])])}
    finals = tuple(found for found in work["promote"] if found[0].id in kept)
    replaced = tuple(found for found in work["promote"] if found[0].id not in kept)
    return Cell(*key, tuple(work["sweep"]), tuple(work["race"]), finals, broken, replaced)


def describe_cell(cell: Cell, seeds: int) -> tuple[str, str]:
    """Return what a cell is doing, and details: ``searching, 12 of 48 trials``.

    Args:
        cell: The cell.
        seeds: Fresh seeds that it is to have.
    """
    if cell.broken:
        return FAILED, f"{', '.join(cell.broken)} cannot be read"
    if cell.search is None:
        return WAITING, ""
    plan, state = cell.search
    if not state.is_done(plan.num_trials) and not cell.finals and not cell.races:
        return _activity(plan, "search"), _progress(plan, state, "trials")
    if best(state.records.values(), plan.protocol) is None:
        return FAILED, f"no trial of {plan.id} is complete: {_first_failure(state)}"
    for work, what in ((cell.races, "race"), (cell.finals, "final runs")):
        for plan, state in work:
            if not state.is_done(plan.num_trials) and state.driver_state != "FINISHED":
                return _activity(plan, what), _progress(plan, state, "runs")
    return _describe_finals(cell, seeds)


def _describe_finals(cell: Cell, seeds: int) -> tuple[str, str]:
    lost = find_failed_seeds(cell)
    if lost:
        listed = ", ".join(f"seed {seed}: {cause}" for seed, cause in lost.items())
        return FAILED, f"{len(lost)} of its final runs failed ({listed})"
    for plan, state in cell.finals:
        if state.is_limited and len(state.records) - len(state.open_trials()) < plan.num_trials:
            return _activity(plan, "final runs"), f"{_progress(plan, state, 'runs')}, at the limit of GPU-hours"
    planned = sum(plan.num_final for plan, _ in cell.finals)
    if planned < seeds or not all(state.is_concluded for _, state in cell.finals):
        plan = cell.finals[-1][0] if cell.finals else cell.searches[0][0]
        return _activity(plan, "test"), f"{planned} of {seeds} seeds have run"
    return DONE, f"{planned} seeds"


def find_failed_seeds(cell: Cell) -> dict[int, str]:
    """Return training seed -> cause of every final run that has failed."""
    return {
        int(plan.start_from[trial]["loop.seed"] or 0): str(record.cause or "ERROR")
        for plan, state in cell.finals
        for trial, record in sorted(state.records.items())
        if trial < plan.num_final and record.state is TrialState.FAILED
    }


def _activity(plan: SweepPlan, what: str) -> str:
    return what if find_holder(sweep_dir(plan.id)) is not None else STOPPED


def _progress(plan: SweepPlan, state: SweepState, what: str) -> str:
    ended = sum(record.ended for record in state.records.values())
    return f"{ended} of {state.total(plan.num_trials)} {what}"


def _first_failure(state: SweepState) -> str:
    for _, record in sorted(state.records.items()):
        if record.state is TrialState.FAILED:
            return f"{record.cause}, {record.message}" if record.message else str(record.cause)
    return "none failed"
