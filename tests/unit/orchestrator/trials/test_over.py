from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import UserError
from orchestrator.planning.min_gain import end_below
from orchestrator.planning.page import render_plan
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep.extension import Extension, extending
from orchestrator.sweep_folder.events import DriverEnded, SearchOver
from orchestrator.sweep_folder.journal import Journal, replay
from orchestrator.sweep_folder.records import TrialReport
from orchestrator.trials.over import LEAST_COMPLETE, expected_gain
from search_spaces.ranges import Range
from tests.kit.directed import events, make
from tests.kit.sweeps import driver_started, journal_path
from training.metric_names import VAL_MAP

SCORES = (50.0, 62.0, 58.0, 70.0, 65.0, 71.0, 71.5, 71.2, 71.4)
"""All others have 71.3. Of ten, the best third is 0.35 above the next one: 0.35 ln(24 / 10) = 0.31, and the latest
third has gained nothing. Of nine, the latest third has gained 0.5."""


def make_over(**changes: Any) -> SweepPlan:
    settings: dict[str, Any] = {"num_trials": 24, "sampler": "random", "scheduler": "none", "min_gain": 0.5}
    return make(**(settings | changes))


def drive(plan: SweepPlan, score: Callable[[int], float], kill_after: float = math.inf) -> list[str]:
    """Run one driver, one trial at a time, to its end or to a kill after so many reports; return what it said."""
    from orchestrator.trials.director import Director

    said: list[str] = []
    with Journal.open(journal_path(plan)) as journal:
        journal.append(replace(driver_started(plan), time_ms=0, num_trials=journal.state.total(plan.num_trials)))
        director = Director(plan, journal, say=said.append)
        director.record_missed_ends()
        while (handout := director.next_trial()) is not None:
            for epoch in range(max(handout.metrics, default=0) + 1, plan.epochs + 1):
                if kill_after == 0:
                    return said
                kill_after -= 1
                director.report(handout.trial, TrialReport(epoch, {VAL_MAP: score(handout.trial) - (4 - epoch)}))
        assert director.finished
        journal.append(DriverEnded("FINISHED"))
    return said


def by_table(trial: int) -> float:
    return SCORES[trial] if trial < len(SCORES) else 71.3


def test_the_expected_gain_is_that_of_an_exponential_tail() -> None:
    assert expected_gain(list(range(LEAST_COMPLETE - 1)), 10, 20) is None
    # The best third of nine: 8 is 2 above 6, and twice as many trials gain ln 2 of it.
    assert expected_gain([9, 8, 7, 6, 0, 0, 0, 0, 0], 10, 20) == pytest.approx(2 * math.log(2))
    assert expected_gain([0, 0, 0, 0, 0, 6, 7, 8, 9], 10, 20) == 3, "the latest third has gained as much"
    assert expected_gain([1.0] * 9, 9, 24) == 0
    # Measured: the best of 24 and of 60 draws of such a tail, by many repetitions.
    dice = np.random.default_rng(0)
    draws = dice.exponential(2.0, (400, 60))
    gains = [expected_gain(sorted(row[:24], reverse=True), 24, 60) or 0.0 for row in draws.tolist()]
    assert np.mean(gains) == pytest.approx(np.mean(draws.max(1) - draws[:, :24].max(1)), rel=0.12)


def test_a_search_ends_once_its_other_trials_are_expected_to_gain_too_little() -> None:
    plan = make_over()
    (said,) = drive(plan, by_table)
    state = replay(journal_path(plan))
    (over,) = events(plan, SearchOver)
    assert (over.num_started, over.num_trials, over.min_gain) == (10, 24, 0.5)
    assert over.gain == pytest.approx(0.3064, abs=1e-4)
    assert over.message == (
        "after 10 of 24 trials, the other 14 were expected to raise the best score by 0.31 points, less than "
        "--min-gain 0.5"
    )
    assert said == f"the search is over: {over.message}"
    assert (state.is_over, state.is_done(plan.num_trials), state.total(24), state.driver_state) == (
        (True, True, 10, "FINISHED")
    )
    assert state.early_end == over.message


def test_a_killed_driver_and_the_next_one_decide_alike() -> None:
    for number, kill_after in enumerate((1, 17, 33, 39, 40)):
        plan = make_over(sweep_id=f"digits-0000001{number}")
        drive(plan, by_table, kill_after)
        drive(plan, by_table)
        (over,) = events(plan, SearchOver)
        assert (over.num_started, len(replay(journal_path(plan)).records)) == (10, 10), kill_after


def test_a_search_that_still_gains_runs_to_its_end() -> None:
    cases: list[tuple[Callable[[int], float], dict[str, Any]]] = [
        (lambda trial: 50.0 + trial, {}),
        (by_table, {"min_gain": None}),
        (by_table, {"min_gain": 0.001}),
    ]
    for number, (score, changes) in enumerate(cases):
        plan = make_over(sweep_id=f"digits-0000002{number}", **changes)
        assert drive(plan, score) == []
        assert len(replay(journal_path(plan)).records) == 24


def test_extend_runs_the_trials_that_it_asks_for_whatever_they_may_gain() -> None:
    plan = make_over()
    drive(plan, by_table)
    with (
        Journal.open(journal_path(plan)) as journal,
        pytest.raises(OSError, match="no Ray"),
        extending(plan, journal, Extension(3)),
    ):
        raise OSError("no Ray")
    state = replay(journal_path(plan))
    assert (state.is_over, state.driver_state, state.total(24)) == (True, "FINISHED", 10)
    with Journal.open(journal_path(plan)) as journal, extending(plan, journal, Extension(3)):
        assert (journal.state.is_over, journal.state.early_end) == (False, None)
        assert (journal.state.total(24), journal.state.driver_state) == (13, "INTERRUPTED")
    assert drive(plan, by_table) == []
    state = replay(journal_path(plan))
    assert (len(state.records), state.is_over, state.is_done(24), state.driver_state) == (13, False, True, "FINISHED")
    assert len(events(plan, SearchOver)) == 1


def test_only_a_search_can_end_early_and_the_plan_says_so() -> None:
    plan = make_over(min_gain=None)
    found = end_below(plan, 0.25)
    assert found.min_gain == 0.25
    assert SweepPlan.from_json(found.to_json()) == found
    line = next(line for line in render_plan(found) if "may end" in line)
    assert "early, once the trials left are expected to gain less than 0.25 points together" in line
    assert not any("may end" in line for line in render_plan(plan))
    grid = make_over(
        sweep_id="digits-00000002", sampler="grid", ranges={"method.warmup_epochs": Range(type="int", low=1, high=3)}
    )
    for points, of, message in (
        (0.0, plan, r"--min-gain must be a number of points above 0, but got --min-gain=0\."),
        (math.inf, plan, "must be a number"),
        (0.5, grid, "does not go with a grid"),
        (0.5, make_over(sweep_id="digits-00000003", ranges={}), "nothing is searched"),
    ):
        with pytest.raises(UserError, match=message):
            end_below(of, points)
