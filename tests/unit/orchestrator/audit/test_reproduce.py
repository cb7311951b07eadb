"""Test what reproduce plans and compares; tests/integration has a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.audit import reproduce as module
from orchestrator.audit.reproduce import reproduce
from orchestrator.errors import UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import EpochReported, Event
from orchestrator.sweep_folder.journal import replay
from tests.kit import sweeps
from tests.kit.program import run

Change = Callable[[EpochReported], Event]


@pytest.fixture
def swept() -> SweepPlan:
    plan = sweeps.make_sweep(num_trials=4)
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    return plan


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], list[SweepPlan]]:
    """Stand in for training: every epoch as trial 0 of the sweep has it, after a change."""
    planned: list[SweepPlan] = []

    def prepare(change: Change) -> list[SweepPlan]:
        def train(plan: SweepPlan, options: DriveOptions) -> SweepOutcome:
            planned.append(plan)
            sweeps.create(plan)
            epochs = [sweeps.epoch_reported(0, epoch, 30 + epoch, 50 + 10 * epoch) for epoch in (1, 2, 3)]
            epochs = [replace(event, metrics=dict(event.metrics)) for event in epochs]
            for event, score in zip(epochs, (60.0, 70.0, 65.0), strict=True):
                metrics = {**event.metrics, "val/mAP": score, "val/observed_mAP": score - 1, "time/epoch_s": 9.0}
                epochs[event.epoch - 1] = replace(event, metrics=metrics)
            started = sweeps.driver_started(plan, 29, sweeps.PROVENANCE | {"host": "elsewhere"})
            sweeps.write_events(
                plan,
                [
                    started,
                    sweeps.trial_started(0, 30),
                    *map(change, epochs),
                    sweeps.trial_ended(0, 40),
                    sweeps.driver_ended(41),
                ],
            )
            return SweepOutcome(plan, tuple(replay(sweeps.journal_path(plan)).records.values()), "FINISHED", 1.0)

        monkeypatch.setattr(module, "run_sweep", train)
        monkeypatch.setattr(module, "resume", lambda sweep_id, options: _outcome(planned[0]))
        return planned

    return prepare


def _outcome(plan: SweepPlan) -> SweepOutcome:
    return SweepOutcome(plan, tuple(replay(sweeps.journal_path(plan)).records.values()), "FINISHED", 1.0)


def test_equal_figures_are_equal_to_the_bit_whatever_the_times(
    swept: SweepPlan, trained: Callable[[Change], list[SweepPlan]]
) -> None:
    planned = trained(lambda event: event)
    found = reproduce(f"{swept.id}/0")
    assert (found.num_epochs, found.num_figures, found.differences) == (3, 9, ())
    [plan] = planned
    assert (plan.kind, plan.parent, plan.num_trials, plan.scheduler) == ("train", f"{swept.id}/0", 1, "none")
    assert plan.start_from == ({"method.cam_threshold": 0.5},)
    assert (plan.base, plan.protocol, plan.resources) == (swept.base, swept.protocol, swept.resources)
    assert found.conditions == {"host": ("unknown", "elsewhere")}
    # Once more: it is there, so it is only compared.
    assert reproduce(f"{swept.id}/0").again == found.again
    assert len(planned) == 1


def test_differences_are_named_and_the_exit_code_says_so(
    swept: SweepPlan,
    trained: Callable[[Change], list[SweepPlan]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def change(event: EpochReported) -> Event:
        off = {2: 1e-13, 3: 0.25}.get(event.epoch, 0.0)
        return replace(event, metrics={**event.metrics, "val/mAP": event.metrics["val/mAP"] + off})

    trained(change)
    code, out, _ = run(capsys, "reproduce", f"{swept.id}/0")
    assert code == 1
    assert "2 of 9 figures of 3 epochs differ" in out
    assert "  epoch 3, val/mAP: 65.0 was recorded, 65.25 came out" in out
    assert "largest difference on validation data: 0.25 points" in out
    assert "not the same: host was unknown, is elsewhere" in out
    printed: dict[str, Any] = json.loads(run(capsys, "reproduce", f"{swept.id}/0", "--json")[1])
    assert (printed["equal"], printed["largest_val_difference"], len(printed["differences"])) == (False, 0.25, 2)


def test_a_metric_that_the_record_is_too_old_for_is_no_difference(
    swept: SweepPlan, trained: Callable[[Change], list[SweepPlan]]
) -> None:
    trained(lambda event: replace(event, metrics={**event.metrics, "val/covering_rate": 50.0}))
    assert reproduce(f"{swept.id}/0").differences == ()


def test_a_repetition_of_another_version_is_passed_over(
    swept: SweepPlan, trained: Callable[[Change], list[SweepPlan]]
) -> None:
    planned = trained(lambda event: event)
    reproduce(f"{swept.id}/0")
    plan_file = sweep_dir(planned[0].id) / "plan.json"
    plan_file.write_text(plan_file.read_text().replace('"sampler"', '"sampler_of_old"'))
    assert reproduce(f"{swept.id}/0").again == planned[1].id


def test_a_run_without_an_epoch_has_nothing_to_compare(swept: SweepPlan) -> None:
    with pytest.raises(UserError, match="has no epoch to compare with"):
        reproduce(f"{swept.id}/2")
    with pytest.raises(UserError, match="has no epoch to compare with"):
        reproduce(f"{swept.id}/9")
