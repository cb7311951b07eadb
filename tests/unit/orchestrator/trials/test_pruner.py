from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.trials.pruner import Pruner
from tests.kit.sweeps import make_sweep


@pytest.fixture
def plan() -> Callable[..., SweepPlan]:
    return make_sweep


def test_the_pruner_decides_as_rays_asha_does(plan: Callable[..., SweepPlan]) -> None:
    epochs = 27
    base = plan().base | {"loop.epochs": epochs}
    pruner = Pruner(plan(sweep_id="digits-00000002", base=base, grace_epochs=3))
    asha = AsyncHyperBandScheduler(
        time_attr="epoch", metric="value", mode="max", max_t=epochs, grace_period=3, reduction_factor=3
    )
    draws = random.Random(0)
    decisions: list[bool] = []
    trials: dict[int, Any] = {trial: type("TuneTrial", (), {"trial_id": f"tune{trial}"})() for trial in range(30)}
    for trial in trials.values():
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
    progress = dict.fromkeys(trials, 0)
    while progress:
        number = draws.choice(list(progress))
        progress[number] += 1
        value = draws.random()
        result = {"epoch": progress[number], "value": value}
        theirs = asha.on_trial_result(None, trials[number], result) == TrialScheduler.STOP  # type: ignore[arg-type]
        assert pruner.cuts(number, progress[number], value) == theirs
        decisions.append(theirs and progress[number] < epochs)
        if theirs:
            del progress[number]
    assert 5 < sum(decisions) < 30


def test_the_pruner_gives_everyone_the_grace(plan: Callable[..., SweepPlan]) -> None:
    pruner = Pruner(plan(base=plan().base | {"loop.epochs": 9}, sweep_id="digits-00000002", grace_epochs=3))
    assert not any(pruner.cuts(trial, epoch, 100.0 - trial) for trial in range(5) for epoch in (1, 2))
    assert [pruner.cuts(trial, 3, 100.0 - trial) for trial in range(3)] == [False, True, True]


@pytest.mark.parametrize("changes", [{"scheduler": "none"}, {"grace_epochs": 3}, {"grace_epochs": 8}])
def test_there_is_no_pruning_where_it_is_off_or_the_grace_is_all_there_is(
    plan: Callable[..., SweepPlan], changes: dict[str, Any]
) -> None:
    pruner = Pruner(plan(**changes))
    assert not any(pruner.cuts(trial, epoch, 100.0 - trial) for epoch in range(1, 4) for trial in range(9))
