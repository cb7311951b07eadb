from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep import driver as sweep_module
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import Event, TrialStarted
from orchestrator.sweep_folder.index import create_sweep, load_plan
from orchestrator.sweep_folder.journal import replay
from tests.kit.sweeps import journal_path, whole_sweep, write_events


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a driver without Ray in place of the real one; return what it was called with."""
    calls: list[dict[str, Any]] = []

    def drive(plan: SweepPlan, options: DriveOptions, **how: Any) -> SweepOutcome:
        # Methods without a mask have no such setting.
        masks = "method.cam_threshold" in plan.base
        write_events(plan, [event if masks else _without_params(event) for event in whole_sweep(plan)])
        calls.append({"plan": plan, **vars(options), **how})
        records = tuple(replay(journal_path(plan)).records.values())
        return SweepOutcome(plan, records, "FINISHED", 1.0, None)

    def run_sweep(plan: SweepPlan, options: DriveOptions) -> SweepOutcome:
        create_sweep(plan.id, plan.to_json())
        return drive(plan, options)

    monkeypatch.setattr(sweep_module, "run_sweep", run_sweep)
    monkeypatch.setattr(sweep_module, "resume", lambda sweep_id, options: drive(load_plan(sweep_id), options))
    monkeypatch.setattr(
        sweep_module,
        "extend",
        lambda sweep_id, num_more, options, **how: drive(load_plan(sweep_id), options, num_more=num_more, **how),
    )
    return calls


def _without_params(event: Event) -> Event:
    return replace(event, params={}) if isinstance(event, TrialStarted) else event
