"""What is audited: one sweep, training, ablation or promotion, with all that its journal says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import DriverStarted, Event
from orchestrator.sweep_folder.final_sets import FinalSet, final_sets
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.rows import make_rows, read_origins
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep
from training.config.run import Scalar


@dataclass(frozen=True)
class Subject:
    """A sweep with everything that its journal says.

    Attributes:
        origins: Trial -> the provenance of the driver that started it.
        drivers: The provenance of every driver.
    """

    plan: SweepPlan
    state: SweepState
    origins: Mapping[int, Mapping[str, str]]
    drivers: tuple[Mapping[str, str], ...]

    @classmethod
    def read(cls, sweep_id: str) -> Subject:
        """Read a sweep of this home.

        Raises:
            UserError: It does not exist.
            OrchestratorError: Its plan or its journal is not as it was written.
        """
        plan, state = read_sweep(sweep_id)
        events: list[Event] = follow(sweep_dir(sweep_id) / JOURNAL_FILE)[0]
        drivers = tuple(event.provenance for event in events if isinstance(event, DriverStarted))
        return cls(plan, state, read_origins(events), drivers)

    @property
    def id(self) -> str:
        """Its id."""
        return self.plan.id

    @property
    def complete(self) -> dict[int, TrialRecord]:
        """The trials that were completed, by number."""
        return {trial: record for trial, record in sorted(self.state.records.items()) if _is_complete(record)}

    @cached_property
    def sets(self) -> tuple[FinalSet, ...]:
        """The runs of a promotion that were registered for the test set before it was opened; none of other sweeps."""
        return final_sets(self.plan) if self.plan.kind == "promote" else ()

    @property
    def finals(self) -> tuple[int, ...]:
        """The numbers of a promotion's runs of the winner."""
        return tuple(trial for found in self.sets if not found.is_champion for trial in found.trials)

    @property
    def final_points(self) -> tuple[Mapping[str, Scalar], ...]:
        """The params of these runs."""
        return tuple(self.plan.start_from[trial] for trial in self.finals)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that its journal gives."""
        return make_rows(self.plan, self.state, self.origins)

    @cached_property
    def values(self) -> dict[tuple[int, str, str], float | None]:
        """(trial, split, metric) -> value of its rows."""
        return {(row["trial"], row["split"], row["metric"]): row["value"] for row in self.rows}


def _is_complete(record: TrialRecord) -> bool:
    return record.state is TrialState.COMPLETE
