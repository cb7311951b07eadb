from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.events import SweepPlanned
from orchestrator.sweep_folder.plan_check import PlanChangedError, describe_changes, require_same_plan
from orchestrator.sweep_folder.state import SweepState
from search_spaces.ranges import Range
from tests.kit.sweeps import make_sweep
from training.selection import SelectBy


def test_what_was_edited_is_named_with_both_values() -> None:
    plan = make_sweep(ranges={"optim.lr": Range(type="float", low=1e-4, high=1e-2, log=True)})
    edited = replace(
        plan,
        base={**plan.base, "loop.epochs": 8},
        num_trials=7,
        ranges={"optim.lr": Range(type="float", low=1e-3, high=1e-2, log=True)},
        protocol=replace(plan.protocol, select_epoch_by=SelectBy.LAST),
    )
    assert list(describe_changes(plan, edited)) == [
        "loop.epochs was 3 and is 8",
        "protocol.select_epoch_by was clean-val and is last",
        "ranges.optim.lr.low was 0.0001 and is 0.001",
        "num_trials was 3 and is 7",
    ]
    state = SweepState()
    state.apply(SweepPlanned(json.loads(plan.to_json()), time_ms=1))
    with pytest.raises(PlanChangedError) as refused:
        require_same_plan(edited, state)
    for words in (
        f"{sweep_dir(plan.id)}/plan.json is not the plan that {plan.id} began with: loop.epochs was 3 and is 8",
        f"Delete the file, and `orchestrator resume {plan.id}` writes it again as it was",
        f"`orchestrator extend {plan.id} --trials +4`",
    ):
        assert words in str(refused.value)


def test_places_may_change_and_fields_of_other_versions_are_no_edits() -> None:
    plan = make_sweep()
    moved = replace(plan, storage="s3://b/x", backup="/mnt", base={**plan.base, "data.store": "/moved"})
    state = SweepState()
    require_same_plan(moved, state)
    plain = json.loads(plan.to_json())
    del plain["keep_weights"]  # as a version before the field recorded it
    state.apply(SweepPlanned(plain, time_ms=1))
    require_same_plan(moved, state)
    state.apply(SweepPlanned({**plain, "of_a_later_version": 1}, time_ms=1))
    require_same_plan(moved, state)
