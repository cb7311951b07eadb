"""Run a benchmark cell by cell: an ordinary sweep within its budget, then the race and the final runs of a promotion.

Every cell is continued where it stopped, whatever stopped it; one that fails does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from filelock import FileLock, Timeout

from orchestrator.durations import format_hours
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.cost import LEAST_RACE_RUNS
from orchestrator.planning.start_check import require_startable
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import LIMITED
from orchestrator.promotion.limit import LEAST_HOURS
from orchestrator.promotion.promote import promote_in_suite
from orchestrator.promotion.verdict import Verdict
from orchestrator.results.suite_cells import DONE, Cell, Key, Work, describe_cell, read_cell, read_cells
from orchestrator.results.suite_record import SuiteRecord
from orchestrator.suite.budget import count_more_trials
from orchestrator.suite.plan import CellPlan
from orchestrator.sweep.driver import FINISHED, INTERRUPTED, extend, resume, run_sweep
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import best
from orchestrator.sweep_folder.spent import sum_spent
from orchestrator.trials.limit import round_up
from orchestrator.writable import require_writable, require_writable_home
from training.counts import counted
from training.errors import DatasetError, WeightsError

_LOCK_FILE = ".suite.lock"
_MAX_STEPS = 4


@dataclass(frozen=True)
class SuiteOutcome:
    """The result of one driver's work on a benchmark.

    Attributes:
        state: ``FINISHED``, or ``INTERRUPTED`` by Ctrl-C or SIGTERM.
        failed: Cell -> why it failed.
        limited: Cell -> why the limit of GPU-hours has kept it from starting or from ending.
        keys: The cells that were asked for.
    """

    state: str
    failed: dict[Key, str]
    keys: tuple[Key, ...]
    limited: dict[Key, str] = field(default_factory=dict)


class _InterruptedError(Exception):
    """Ctrl-C or SIGTERM has stopped a sweep or a promotion of a cell."""


class _LimitedError(Exception):
    """The limit of GPU-hours keeps the final runs of a cell from ending."""


def run_suite(
    record: SuiteRecord,
    cells: list[CellPlan],
    options: DriveOptions = DEFAULT,
    *,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[Key], None] = lambda key: None,
) -> SuiteOutcome:
    """Run cells, or go on with them.

    Args:
        record: The benchmark, as it is registered.
        cells: Those to run, in order.
        options: How to run them.
        say: Called with each step.
        show: Called with a cell before its search and after it, to show the benchmark as it stands.

    Raises:
        UserError: Another process works on the benchmark, or the home cannot be written.
    """
    require_writable(options.address)
    failed: dict[Key, str] = {}
    limited: dict[Key, str] = {}
    keys = tuple(cell.key for cell in cells)
    with _working(record):
        for number, planned in enumerate(cells, start=1):
            dataset, method = planned.key
            say(f"cell {number} of {len(cells)}: {method} on {dataset}")
            if (why := _describe_lack(record, planned, _read_limited(record))) is not None:
                limited[planned.key] = why
                say(f"{method} on {dataset} does not start: {why}")
                continue
            try:
                _run_cell(record, planned, options, say, show)
            except (_InterruptedError, KeyboardInterrupt):
                return SuiteOutcome(INTERRUPTED, failed, keys, limited)
            except _LimitedError as reached:
                limited[planned.key] = str(reached)
                continue
            # Whatever it is, the other cells may be fine.
            except (ValueError, DatasetError, WeightsError, OrchestratorError, OSError) as error:
                failed[planned.key] = str(error)
                say(f"{method} on {dataset} failed: {error}")
                continue
            state, details = describe_cell(read_cell(record, planned.key), record.seeds)
            if state != DONE:
                failed[planned.key] = f"{state}: {details}"
                say(f"{method} on {dataset} {state}: {details}")
    return SuiteOutcome(FINISHED, failed, keys, limited)


def check_cells(cells: list[CellPlan], options: DriveOptions = DEFAULT) -> None:
    """Check what all cells need before the first one starts: data, weights, room on this machine.

    Raises:
        UserError: Something is missing; the message has the command that fixes it.
    """
    datasets = dict.fromkeys(cell.plan.dataset for cell in cells)
    for cell in cells:
        try:
            require_startable(cell.plan, options.address)
        except UserError as error:
            others = ",".join(dataset for dataset in datasets if dataset != cell.plan.dataset)
            hint = f" Or leave {cell.plan.dataset} out: --datasets {others}" if others else ""
            raise UserError(f"{cell.plan.method} on {cell.plan.dataset}: {error}{hint}") from None


def require_one_cell(record: SuiteRecord, cells: list[CellPlan]) -> None:
    """Check that the limit of GPU-hours allows at least one of the cells that are to run.

    Raises:
        UserError: It does not; the message has the least that would.
    """
    ran = _read_limited(record)
    lacks = [_describe_lack(record, cell, ran) for cell in cells]
    if not lacks or None in lacks:
        return
    least = _sum_hours(ran) + min(cell.hours or 0.0 for cell in cells)
    raise UserError(
        f"--max-gpu-hours={record.max_gpu_hours:g} is less than one cell of {record.id} may take, so nothing would "
        f"run: {lacks[0]}. Use at least --max-gpu-hours {round_up(least):g}"
    )


def _read_limited(record: SuiteRecord) -> dict[Key, Cell]:
    """Return what has run for each cell of a benchmark that has a limit; nothing without one, which needs no count."""
    return {} if record.max_gpu_hours is None else read_cells(record)


def _describe_lack(record: SuiteRecord, planned: CellPlan, ran: Mapping[Key, Cell]) -> str | None:
    """Say why a cell may not start below the limit of GPU-hours; None if it may, or has begun."""
    if record.max_gpu_hours is None or planned.hours is None or ran[planned.key].search is not None:
        return None
    spent, unit = _sum_hours(ran), planned.plan.resources.hours_unit
    if spent + planned.hours <= record.max_gpu_hours:
        return None
    return (
        f"its search and what follows may take {format_hours(planned.hours)} {unit}, and {format_hours(spent)} of "
        f"{record.max_gpu_hours:g} are spent"
    )


def _sum_hours(ran: Mapping[Key, Cell], besides: Iterable[str] = ()) -> float:
    """Return the hours that all runs of a benchmark have taken, but for some sweeps, races or final runs."""
    left_out = set(besides)
    return sum_spent(found for cell in ran.values() for found in cell.all if found[0].id not in left_out).hours


def _limit(record: SuiteRecord, besides: Iterable[str] = ()) -> float | None:
    """Return what is left of the limit for some sweeps, with what they have spent."""
    if record.max_gpu_hours is None:
        return None
    return max(LEAST_HOURS, record.max_gpu_hours - _sum_hours(read_cells(record), besides))


def is_worked_on(record: SuiteRecord) -> bool:
    """Return whether a process is working on a benchmark at this moment."""
    path = record.folder / _LOCK_FILE
    if not path.exists():
        return False
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a home that cannot be written has no worker of ours
        return False
    lock.release()
    return False


def _run_cell(
    record: SuiteRecord,
    planned: CellPlan,
    options: DriveOptions,
    say: Callable[[str], None],
    show: Callable[[Key], None],
) -> None:
    cell = read_cell(record, planned.key)
    if describe_cell(cell, record.seeds)[0] == DONE:
        return
    if cell.broken:
        raise OrchestratorError(f"{', '.join(cell.broken)} cannot be read. See why: orchestrator status --all")
    show(planned.key)
    sweep_id = _search(record, planned, cell, options, say)
    show(planned.key)
    plan, state = _read(sweep_id, planned.plan if cell.search is None else cell.search[0])
    if best(state.records.values(), plan.protocol) is None:
        return  # described as failed
    epochs = sum(found.last_epoch for found in state.records.values()) / plan.epochs
    race_runs = max(LEAST_RACE_RUNS, round(record.race_frac * epochs)) if record.race_frac else 0
    for _ in range(_MAX_STEPS):  # one is enough, unless seeds are added to what was interrupted
        if describe_cell(read_cell(record, planned.key), record.seeds)[0] == DONE:
            return
        limit = _limit(record, _find_open(read_cell(record, planned.key)))
        outcome = promote_in_suite(
            sweep_id, options, seeds=record.seeds, race_runs=race_runs, max_gpu_hours=limit, say=say
        )
        if outcome.state == INTERRUPTED:
            raise _InterruptedError
        if outcome.state == LIMITED:
            raise _LimitedError(describe_cell(read_cell(record, planned.key), record.seeds)[1])
        assert outcome.decision is not None
        if outcome.decision.verdict is Verdict.REFUSE:
            return  # a final run has failed, which the next command tries again


def _find_open(cell: Cell) -> list[str]:
    """Return the ids of what the next step of a cell's promotion continues: its race, and open final runs."""
    return [plan.id for plan, _ in cell.races] + [plan.id for plan, state in cell.finals if not state.is_concluded]


def _search(
    record: SuiteRecord, planned: CellPlan, cell: Cell, options: DriveOptions, say: Callable[[str], None]
) -> str:
    """Run the search of a cell until its budget is spent; return the id of its sweep."""
    plan = planned.plan if cell.search is None else cell.search[0]
    # Trials that are added after a winner was chosen would be in no race.
    if cell.races or cell.finals:
        return plan.id
    limit = _limit(record, [plan.id])
    if cell.search is None:
        outcome = run_sweep(replace(plan, max_gpu_hours=limit), options)
    else:
        outcome = resume(plan.id, replace(options, max_gpu_hours=limit))
    while outcome.state == FINISHED:
        state = _read(plan.id, plan)[1]
        if state.is_limited and state.limit is not None:
            say(f"{plan.id} has ended before its budget was spent: {state.limit.message}")
            return plan.id
        more = count_more_trials(_read(plan.id, plan), record.budget, planned.images, planned.amount)
        if not more:
            return plan.id
        say(f"{plan.id}: what is left of the budget pays for {counted(more, 'more trial')}")
        outcome = extend(plan.id, more, options)
    raise _InterruptedError


def _read(sweep_id: str, plan: SweepPlan) -> Work:
    return plan, replay(sweep_dir(sweep_id) / JOURNAL_FILE)


@contextmanager
def _working(record: SuiteRecord) -> Iterator[None]:
    """Keep two processes from starting the same cell."""
    require_writable_home()
    record.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(record.folder / _LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"Another process is working on {record.id}. Watch it: orchestrator status {record.id}"
        ) from None
    try:
        yield
    finally:
        lock.release()
