"""Record what an `extend` changes: trials are added, or the limit of GPU-hours is raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.request import require_hours
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import DriverEnded, SweepExtended
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.state import SweepState

INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True)
class Extension:
    """What is to change: further trials, and a new limit of GPU-hours (None leaves it as it is)."""

    num_more: int = 0
    max_gpu_hours: float | None = None

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self.num_more > 0 or self.max_gpu_hours is not None

    @property
    def flags(self) -> str:
        """The flags of `extend` that ask for it."""
        trials = f" --trials +{self.num_more}" if self.num_more else ""
        return trials + ("" if self.max_gpu_hours is None else f" --max-gpu-hours {self.max_gpu_hours:g}")


NO_EXTENSION = Extension()


def require_higher_limit(plan: SweepPlan, state: SweepState, max_gpu_hours: float | None) -> None:
    """Check that a new limit raises the present one, and that a sweep that has reached its limit gets one.

    Raises:
        UserError: It does not.
    """
    require_hours(max_gpu_hours)
    present, unit = state.max_gpu_hours or plan.max_gpu_hours, plan.resources.hours_unit
    if max_gpu_hours is not None and present is None:
        raise UserError(f"{plan.id} has no limit of {unit} that could be raised. Leave --max-gpu-hours out.")
    if max_gpu_hours is not None and present is not None and max_gpu_hours <= present:
        raise UserError(
            f"--max-gpu-hours must be above {present:g}, the present limit, but got --max-gpu-hours={max_gpu_hours:g}."
        )
    if max_gpu_hours is None and state.is_limited and state.limit is not None:
        raise UserError(
            f"{plan.id} has ended early: {state.limit.message}. Raise it: orchestrator extend {plan.id} "
            f"--max-gpu-hours H"
        )


def change_limit(plan: SweepPlan, state: SweepState, max_gpu_hours: float | None) -> Extension:
    """Return what another limit changes: nothing where all trials have ended."""
    is_over = state.is_done(plan.num_trials) and not state.is_limited
    if max_gpu_hours in (None, state.max_gpu_hours or plan.max_gpu_hours) or is_over:
        return NO_EXTENSION
    return Extension(0, max_gpu_hours)


@contextmanager
def extending(plan: SweepPlan, journal: Journal, change: Extension) -> Iterator[None]:
    """Record a change before the block starts anything, so that `resume` keeps it even after a kill.

    If the block fails before its driver has begun, the sweep stays as it was: the user will repeat the command. If it
    is stopped by then, the change stays.

    Args:
        plan: The sweep.
        journal: Its journal, open for writing.
        change: What changes, perhaps nothing.
    """
    if not change:
        yield
        return
    state = journal.state
    driver_state, num_drivers = state.driver_state, len(state.driver_spans)
    former = SweepExtended(state.total(plan.num_trials), state.max_gpu_hours or plan.max_gpu_hours)
    journal.append(SweepExtended(former.num_trials + change.num_more, change.max_gpu_hours))
    try:
        yield
    except BaseException as error:
        if len(journal.state.driver_spans) == num_drivers:
            with suppress(OrchestratorError):  # that the journal cannot be written either must not hide the first error
                if isinstance(error, KeyboardInterrupt):
                    journal.append(DriverEnded(INTERRUPTED, settled=True))
                else:
                    _withdraw(journal, former, driver_state)
        raise


def _withdraw(journal: Journal, former: SweepExtended, driver_state: str | None) -> None:
    journal.append(former)
    # A driver that was killed or never began has no end that could be written again.
    if driver_state not in (None, "RUNNING"):
        journal.append(DriverEnded(driver_state, settled=True))
