"""Read a sweep's plan and journal, and notice if the journal has lost what it had."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import suppress

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, JournalError, advise_restore, replay
from orchestrator.sweep_folder.plan_check import require_same_plan
from orchestrator.sweep_folder.state import SweepState
from orchestrator.sweep_folder.state_cache import replay_quickly


def read_sweep_quickly(sweep_id: str) -> tuple[SweepPlan, SweepState]:
    """As :func:`read_sweep`, for commands that only show a sweep: a long journal is replayed once, not every time."""
    plan, state = load_plan(sweep_id), replay_quickly(sweep_dir(sweep_id) / JOURNAL_FILE)
    require_intact(plan, state)
    return plan, state


def read_sweep(sweep_id: str) -> tuple[SweepPlan, SweepState]:
    """Return a sweep's plan and its state, replayed from its journal.

    Raises:
        UserError: The sweep does not exist.
        OrchestratorError: Its plan or its journal is damaged, the plan is not the one that it began with, or the
            journal is gone although the sweep has begun.
    """
    plan, state = load_plan(sweep_id), replay(sweep_dir(sweep_id) / JOURNAL_FILE)
    require_intact(plan, state)
    return plan, state


def read_sweeps(
    kinds: Collection[str], latest: int | None = None, before: float = math.inf
) -> Iterator[tuple[SweepPlan, SweepState]]:
    """Yield plan and state of every sweep of some kinds in this home, the latest first.

    One that cannot be read (damaged, or written by a later version) is left out: `status` says what is wrong with it,
    and it must not hide the others.

    Args:
        kinds: Which.
        latest: Look at no more than so many.
        before: Unix time in s: only those that were begun earlier.
    """
    for entry in [entry for entry in list_sweeps(kinds=kinds) if entry.created < before][:latest]:
        try:
            found = read_sweep(entry.id)
        except OrchestratorError:
            continue
        yield found


def require_intact(plan: SweepPlan, state: SweepState) -> None:
    """Check that the plan is the one that the sweep began with, and that a journal without a driver never had one.

    Raises:
        PlanChangedError: The plan is another.
        JournalError: The journal is missing or empty, but there are traces of a driver.
    """
    require_same_plan(plan, state)
    if state.driver_state is not None:
        return
    from orchestrator.sweep_folder.traces import find_traces  # brings pyarrow

    traces = find_traces(plan)
    # Asked last, because it is a request, perhaps to a server that does not answer.
    if not traces and _is_logged(plan.id):
        traces = ["runs in MLflow"]
    if traces:
        path = sweep_dir(plan.id) / JOURNAL_FILE
        raise JournalError(
            f"{path} {'has lost its events' if path.exists() else 'is missing'}: {plan.id} has left "
            f"{' and '.join(traces)}, so it has begun. Without its journal it would start again and mix old results "
            f"with new ones. {advise_restore(path.parent)}"
        )


def _is_logged(sweep_id: str) -> bool:
    from orchestrator.tracking.store import has_runs

    # Without an answer nothing is known, and a sweep that never began must be able to start without MLflow.
    with suppress(OrchestratorError):
        return has_runs(sweep_id)
    return False
