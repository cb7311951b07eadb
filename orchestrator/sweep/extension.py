"""Record the trials that an `extend` adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orchestrator.errors import OrchestratorError
from orchestrator.sweep_folder.events import DriverEnded, SweepExtended
from orchestrator.sweep_folder.journal import Journal

INTERRUPTED = "INTERRUPTED"


@contextmanager
def extending(journal: Journal, num_trials: int, num_more: int) -> Iterator[None]:
    """Record new trials before the block starts anything, so that `resume` runs them even after a kill.

    If the block fails before its driver has begun, the sweep keeps its former length: the user will repeat the command.
    If it is stopped by then, the new trials stay.

    Args:
        journal: The sweep's, open for writing.
        num_trials: How many trials it has.
        num_more: How many are added, perhaps none.
    """
    if not num_more:
        yield
        return
    driver_state, num_drivers = journal.state.driver_state, len(journal.state.driver_spans)
    journal.append(SweepExtended(num_trials + num_more))
    try:
        yield
    except BaseException as error:
        if len(journal.state.driver_spans) == num_drivers:
            with suppress(OrchestratorError):  # that the journal cannot be written either must not hide the first error
                if isinstance(error, KeyboardInterrupt):
                    journal.append(DriverEnded(INTERRUPTED, settled=True))
                else:
                    _withdraw(journal, num_trials, driver_state)
        raise


def _withdraw(journal: Journal, num_trials: int, driver_state: str | None) -> None:
    journal.append(SweepExtended(num_trials))
    # A driver that was killed or never began has no end that could be written again.
    if driver_state not in (None, "RUNNING"):
        journal.append(DriverEnded(driver_state, settled=True))
