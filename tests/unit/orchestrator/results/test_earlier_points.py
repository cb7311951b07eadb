from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.learned_points import fit_points
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.settings import merge_settings
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.earlier_points import POINTS_PER_SWEEP, rank_earlier_points
from search_spaces.ranges import Range
from search_spaces.schema import load_space
from tests.kit.program import run
from tests.kit.sweeps import driver_started, epoch_reported, make_sweep, trial_ended, trial_started, write_events

RANGES = {"optim.lr": Range(type="float", low=1e-3, high=1e-1, log=True)}


def finished(sweep_id: str, *trials: tuple[float, float], state: str = "COMPLETE", **changes: Any) -> str:
    """Write a sweep whose trials have a learning rate and a score each."""
    plan = make_sweep(sweep_id, ranges=RANGES, num_trials=len(trials), **changes)
    events: list[Any] = [driver_started(plan)]
    for number, (rate, score) in enumerate(trials):
        started = trial_started(number, 3 * number + 1, 1, **{"optim.lr": rate})
        reported = epoch_reported(number, 1, 3 * number + 2, score)
        events += [started, reported, trial_ended(number, 3 * number + 3, state)]
    write_events(plan, events)
    return plan.id


def plan(learned: tuple[Any, ...], **changes: Any) -> SweepPlan:
    return make_plan(PlanRequest("digits", learned=learned, num_cpus=2, num_gpus=0, **changes))


def test_the_best_of_each_sweep_come_first_whatever_their_scores() -> None:
    finished("digits-00000001", (0.001, 80.0), (0.002, 90.0), (0.003, 85.0), (0.004, 70.0))
    finished("voc-00000002", (0.01, 20.0), (0.02, 10.0))
    points = rank_earlier_points(["digits", "voc"])
    assert [point["optim.lr"] for point in points] == [0.002, 0.01, 0.003, 0.02, 0.001]
    assert len(points) == POINTS_PER_SWEEP + 2
    assert points[0]["optim.batch_size"] == make_sweep("digits-00000003").base["optim.batch_size"]


def test_a_sweep_without_results_and_what_is_no_sweep_are_refused() -> None:
    finished("digits-00000001", (0.001, 80.0), state="PRUNED")
    with pytest.raises(UserError, match="digits-00000001 has no complete trial yet. See: orchestrator leaderboard"):
        rank_earlier_points(["digits"])
    finished("voc-00000002", (0.001, 80.0), kind="train")
    with pytest.raises(UserError, match="voc-00000002 is a training; only a sweep has trials to learn from"):
        rank_earlier_points(["voc"])


def test_points_are_fitted_into_the_ranges_and_follow_the_start_points() -> None:
    own = plan(()).start_from
    point = {"method.name": "ignore", "optim.lr": 1.0, "optim.batch_size": 48, "method.warmup_epochs": 1}
    made = plan((point, {**point, "method.name": "em"}, point))
    assert made.start_from == (
        *own,
        {"optim.lr": 1e-2, "method.warmup_epochs": 2},  # the nearest ends; 48 is no choice, so it is drawn
        {"optim.lr": 1e-2},  # another method's warm-up may mean something else
    )
    assert "the last 2 start points are the best trials of the sweeps that --learn-from names" in made.notes


def test_nothing_to_learn_and_a_grid_are_refused() -> None:
    with pytest.raises(UserError, match="nothing new can be learned: this one searches optim.lr"):
        plan(({"method.name": "em", "model.backbone": "timm/resnet18"},))
    settings = merge_settings(load_space("digits"))
    with pytest.raises(UserError, match="a grid runs every point anyway"):
        fit_points([{"optim.lr": 0.01}], settings, "grid")
    assert fit_points([], settings, "grid") == ()


def test_the_command_takes_several_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    finished("digits-00000001", (0.001, 80.0), (0.002, 90.0))
    finished("voc-00000002", (0.01, 20.0))
    code, out, _ = run(capsys, "plan", "digits", "--learn-from", "digits", "--learn-from", "voc-00000002")
    assert code == 0
    assert "optim.lr=0.002" in out
    code, _, err = run(capsys, "plan", "digits", "--learn-from", "coco")
    assert code == 2
    assert "coco" in err
