from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.planning.estimate import Timing
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.noise import compare_costs
from orchestrator.results.spending import describe_devices
from orchestrator.results.timings import add_cost
from orchestrator.sweep_folder.records import TrialRecord
from tests.kit.sweeps import create, driver_started, epoch_reported, trial_ended, trial_started, write_events
from training.machine import name_cpu

OTHER = "Some other CPU"


def plan(**changes: Any) -> SweepPlan:
    overrides = {"scheduler.name": "asha", **changes.pop("overrides", {})}
    return make_plan(PlanRequest("digits", num_cpus=2, num_gpus=0, overrides=overrides, **changes))


def record(made: SweepPlan, device: str, seconds: int, lengths: tuple[int, ...]) -> SweepPlan:
    """Write the journal of a sweep whose trials have so many epochs of so many seconds."""
    create(made)
    events: list[Any] = [driver_started(made)]
    for trial, length in enumerate(lengths):
        first: dict[str, Any] = {"queue_s": 0.0, "start_s": 0.0, "device": device}
        events.append(trial_started(trial, 0))
        events += [
            epoch_reported(trial, epoch, epoch * seconds, **(first if epoch == 1 else {}))
            for epoch in range(1, length + 1)
        ]
        events.append(trial_ended(trial, length * seconds, "COMPLETE" if length == made.epochs else "PRUNED"))
    write_events(made, events)
    return made


def test_pace_is_that_of_a_probe_then_of_earlier_runs_alike_then_of_the_space() -> None:
    made = plan()
    alone = add_cost(made, 2).cost
    assert alone == made.cost
    assert alone is not None
    assert alone.epoch_basis == "2 s per epoch, as measured when the space was written"
    record(plan(method="em"), name_cpu(), 9, (20,))  # another method
    record(plan(), OTHER, 7, (20,))  # other hardware
    assert add_cost(made, 2).cost == alone
    latest = record(plan(epochs=12), name_cpu(), 4, (12, 10))
    known = add_cost(made, 2, price_per_hour=2.0).cost
    assert known is not None
    assert known.epoch_basis == f"4 s per epoch, as in {latest.id} on {name_cpu()}"
    assert known.p50_hours == pytest.approx(2 * alone.p50_hours)
    assert known.price_per_hour == 2
    probed = add_cost(made, 2, probed=Timing.of_one(3.0, "by 20 steps")).cost
    assert probed is not None
    assert probed.epoch_basis == "3 s per epoch, by 20 steps"
    # Nobody knows what a cluster has: the latest run alike tells, and says on what.
    elsewhere = add_cost(made, 2, here=False).cost
    assert elsewhere is not None
    assert "4 s per epoch" in elsewhere.epoch_basis


def test_survival_is_that_of_an_earlier_sweep_with_the_same_rungs() -> None:
    made = plan()
    earlier = record(plan(seed=3), OTHER, 2, (20, 10, 10, 10, 10, 10, 10, 20))
    cost = add_cost(made, 2).cost
    assert cost is not None
    assert cost.epochs == 24 * 12.5
    assert cost.survival_basis == f"25 % of the trials run to their end, as in {earlier.id}"
    other = add_cost(plan(epochs=15), 2).cost
    assert other is not None
    assert other.survival_basis.startswith("ASHA is expected")


def test_times_of_different_hardware_are_marked_and_not_compared() -> None:
    trial = TrialRecord(0, {}, "random", 0, devices=("A100",), spans=((0, 5000),), queue_s=1.0)
    epochs = {1: {"train/images_forward": 20.0, "train/images_backward": 10.0}}
    other = trial.changed(trial=1, devices=("H200",), metrics=epochs)
    assert (compare_costs([trial, trial.changed(trial=1)]), compare_costs([trial, other])) == ([4.0, 4.0], [0.0, 30.0])
    assert describe_devices([trial, trial.changed(trial=1)]) is None
    assert describe_devices([trial, other]) == (
        "times are not comparable, because the hardware differs: 1 trial on A100 (0); 1 trial on H200 (1)"
    )
    many = [trial.changed(trial=number) for number in range(12)]
    assert "12 trials on A100 (0, 1, 2, 3, 4, 5, 6, 7, ...)" in str(describe_devices([*many, other]))


def test_nothing_is_made_up_where_nothing_is_known() -> None:
    made = plan(overrides={"data.num_train": 400})
    assert add_cost(made, 2) == made
    assert made.cost is None
    assert replace(made, cost=add_cost(plan(), 2).cost).to_json()
