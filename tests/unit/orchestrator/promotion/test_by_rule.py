"""Test promotion by the rule: noise, race, decision and report, each step taken once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import stdev
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.follow_up import first_race_seed
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.final_runs import make_result
from orchestrator.promotion.noise import ASSUMED
from orchestrator.promotion.promote import promote, promote_by_rule, resume_promotion
from orchestrator.promotion.verdict import Verdict, decide
from orchestrator.report.document import Table
from orchestrator.report.promotion_report import make_promotion_report
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.sweep_folder.promotion_report import make_report
from orchestrator.tracking.sweep_notes import tabulate_promotion
from tests.kit import sweeps
from tests.kit.fake_promotion import Store
from training.config.run import Scalar

TAU = "method.cam_threshold"
QUALITY = {0.40: 70.0, 0.45: 74.0, 0.50: 78.0, 0.55: 82.0, 0.60: 79.0, 0.65: 76.0, 0.70: 73.0, 0.75: 66.0}
LUCKY = 0.60
"""Its one run in the sweep is far better than it is."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(monkeypatch)
    made.score_of = _score
    return made


def _score(plan: SweepPlan, point: Mapping[str, Scalar]) -> float:
    """Quality, noise that the seed shares between all, and a little of its own."""
    tau, seed = float(point.get(TAU) or 0.5), int(point["loop.seed"] or 0)
    return QUALITY.get(tau, 75.0) + math.sin(seed) + 0.3 * math.sin(7 * seed + 100 * tau)


def _sweep(sweep_id: str = "digits-00000001", *, better: float = 0.0) -> SweepPlan:
    """A finished sweep of eight points; the best score is that of a lucky trial."""
    plan = sweeps.make_sweep(sweep_id, num_trials=len(QUALITY))
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, (tau, quality) in enumerate(QUALITY.items()):
        score = quality + better + (5.0 if tau == LUCKY else 0.0)
        events += _trial(trial, tau, score)
    sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
    return plan


def _trial(trial: int, tau: float, score: float) -> list[Event]:
    params: dict[str, Any] = {TAU: tau}
    reports = [sweeps.epoch_reported(trial, epoch, 2, score) for epoch in (1, 2, 3)]
    return [sweeps.trial_started(trial, 1, **params), *reports, sweeps.trial_ended(trial, 3)]


def _promote(plan: SweepPlan, said: list[str] | None = None) -> PromotionOutcome:
    return promote_by_rule(plan.id, seeds=5, say=(said if said is not None else []).append)


def test_a_lucky_best_score_does_not_win_and_the_report_is_from_seeds_that_chose_nothing(store: Store) -> None:
    said: list[str] = []
    plan = _sweep()
    outcome = _promote(plan, said)
    choice = outcome.plan.choice
    assert choice is not None
    assert list(QUALITY)[choice.trial] == 0.55
    assert (choice.raw, choice.noise_from != ASSUMED) == (84.0, True)
    assert choice.low < choice.shrunk < choice.high
    assert choice.shrunk < choice.raw
    # The race has seeds of its own, and the report others.
    assert choice.race is not None
    race = load_plan(choice.race)
    first = first_race_seed(plan)
    assert {point["loop.seed"] for point in race.start_from} == set(range(first, first + choice.blocks))
    assert store.opened == [first + 100 + run for run in range(5)]
    assert [list(opening.seeds) for opening in read_ledger()] == [store.opened]
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.PROMOTE
    # What it will cost is said before anything runs.
    assert said[1].startswith(f"race: {len(choice.candidates)} candidates x {choice.blocks} seeds, at most ")
    assert "report: 5 fresh seeds, 5 runs that choose nothing" in said
    report = make_report(outcome.plan, dict(enumerate(outcome.records)), None)
    assert (report.rule, report.difference) == ("race", None)
    assert report.reported is not None
    assert report.reported.num_seeds == 5
    assert [row[0] for row in report.rows()][:4] == ["best score", "shrunken", "race", "posterior"]


def test_the_same_promotion_is_read_whatever_is_known_about_noise_by_then(store: Store) -> None:
    plan = _sweep()
    first, trained = _promote(plan), store.trained
    again = _promote(plan)
    assert (again.plan.id, again.reused, store.trained) == (first.plan.id, True, trained)
    assert first.plan.choice is not None
    assert first.plan.choice.race is not None
    for promotion_id in (first.plan.id, first.plan.choice.race):
        assert resume_promotion(promotion_id).plan.id == first.plan.id
    assert (store.trained, len(read_ledger())) == (trained, 1)
    assert promote_by_rule(plan.id, seeds=6).plan.id != first.plan.id


@pytest.mark.parametrize("at", ["train promote", "evaluate", "register"])
def test_a_promotion_that_died_goes_on_where_it_was(store: Store, at: str) -> None:
    plan = _sweep()
    store.fail_at = at
    try:
        stopped: PromotionOutcome | None = _promote(plan)
    except KeyboardInterrupt:
        stopped = None
    assert stopped is None or stopped.state == "INTERRUPTED"
    store.fail_at = None
    race = list_sweeps(kinds={"race"})[0].id
    outcome = resume_promotion(race)
    assert (store.trained, len(list_sweeps(kinds={"race"})), len(read_ledger())) == (2, 1, 1)
    assert outcome.version is not None
    assert _promote(plan).reused


def test_the_champion_races_and_is_reported_on_the_same_seeds(store: Store) -> None:
    first = _promote(_sweep())
    # A better search of the same kind: all of its points are a little better than those of the first.
    store.score_of = lambda plan, point: _score(plan, point) + (2.0 if TAU in point and point[TAU] != 0.55 else 0.0)
    second = _sweep("again-00000002", better=2.0)
    said: list[str] = []
    outcome = _promote(second, said)
    choice = outcome.plan.choice
    assert choice is not None
    assert choice.champion == first.version
    assert any("and the champion x" in line for line in said)
    # The champion has the settings of trial 3, which therefore is no candidate of its own.
    assert 3 not in choice.candidates
    assert outcome.plan.num_trials == 10
    seeds = [point["loop.seed"] for point in outcome.plan.start_from]
    assert seeds[:5] == seeds[5:]
    assert outcome.decision is not None
    assert f"higher than the mean {choice.champion_mean:.2f} of {first.version} in the race" in outcome.decision.reason
    report = make_report(outcome.plan, dict(enumerate(outcome.records)), None)
    assert report.difference is not None
    assert report.difference.num_seeds == 5
    # Another configuration is another opening.
    assert len(read_ledger()) == 3
    assert len({opening.config_hash for opening in read_ledger()}) == 2


def test_label_draws_are_a_variance_component_of_their_own_and_decide_nothing(store: Store) -> None:
    def score(plan: SweepPlan, point: Mapping[str, Scalar]) -> float:
        return _score(plan, point) - 10.0 * (int(point.get("data.draw_seed") or 1200) - 1200)

    store.score_of = score
    said: list[str] = []
    plan = _sweep()
    first = promote_by_rule(plan.id, seeds=2)
    outcome = promote_by_rule(plan.id, seeds=2, draws=3, say=said.append)
    # The choice of the first stands: nothing races again, and its opening is the same.
    assert outcome.plan.choice == first.plan.choice
    assert said[0].startswith(f"Chosen by {first.plan.id}, which stands")
    assert (outcome.plan.label_draws, outcome.plan.num_trials, len(list_sweeps(kinds={"race"}))) == (
        (1200, 1201, 1202),
        6,
        1,
    )
    points = outcome.plan.start_from
    assert points[:2] == first.plan.start_from
    assert [point.get("data.draw_seed") for point in points] == [None, None, 1201, 1201, 1202, 1202]
    assert len({point["loop.seed"] for point in points}) == 6, "seeds are nested in draws"
    assert [opening.draws for opening in read_ledger()] == [(1200,), (1201,), (1202,)]
    assert ("val", 1202) in store.loaded
    values = [record.value(outcome.plan.protocol) or 0.0 for record in outcome.records]
    report = make_report(outcome.plan, dict(enumerate(outcome.records)), None)
    assert report.reported is not None
    assert (report.reported.num_seeds, report.reported.mean) == (2, sum(values[:2]) / 2), "as papers report"
    found = report.draws["reported"]
    means = [sum(values[start : start + 2]) / 2 for start in (0, 2, 4)]
    assert found.mean == pytest.approx(sum(means) / 3)
    assert found.low is not None
    assert (found.mean - found.low) / 4.302653 == pytest.approx(stdev(means) / math.sqrt(3))
    assert (found.num_draws, found.num_runs) == (3, 6)
    assert report.flatten()["draws.reported.num_draws"] == "3"
    assert [row[0] for row in report.rows()][-1] == "all draws, val/mAP"
    # All that shows a promotion shows it.
    state = replay(sweeps.journal_path(outcome.plan))
    note = tabulate_promotion(outcome.plan, state, lambda trial: None)
    assert "mean, 3 label draws" in note
    assert f"seed {points[2]['loop.seed']}, draw 1201" in note
    page = make_promotion_report(outcome.plan, state)
    [runs] = [part for section in page.sections for part in section.parts if part.name == "final_runs"]
    assert isinstance(runs, Table)
    assert [row[1] for row in runs.rows] == [1200, 1200, 1201, 1201, 1202, 1202]
    assert ("test split opened", "3 times") in page.facts
    assert promote_by_rule(plan.id, seeds=2, draws=3).reused
    with pytest.raises(UserError, match="--draws must be at least 1, but got --draws=0"):
        promote_by_rule(plan.id, draws=0)


def test_a_draw_that_failed_refuses_although_the_others_decide(store: Store) -> None:
    plan = _sweep()
    outcome = promote(plan.id, seeds=2, draws=2)
    result = make_result(outcome.plan, replay(sweeps.journal_path(outcome.plan)), sweeps.journal_path(outcome.plan))
    assert (len(result.values), len(result.further)) == (2, 2)
    failed = decide(replace(result, further=(None, 1.0)), None)
    assert failed.verdict is Verdict.REFUSE
    assert "has a result, on a further label draw" in failed.reason


def test_the_winner_that_is_the_champion_keeps_its_place(store: Store) -> None:
    first = _promote(_sweep())
    quality = {**QUALITY, 0.55: 95.0}
    store.score_of = lambda plan, point: (
        quality.get(float(point.get(TAU) or 0.5), 75.0) + math.sin(int(point["loop.seed"] or 0))
    )
    plan = sweeps.make_sweep("same-00000003", num_trials=2)
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, (tau, score) in enumerate(((0.55, 95.0), (0.4, 70.0))):
        events += _trial(trial, tau, score)
    sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
    outcome = _promote(plan)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.KEEP
    assert f"trial 0 has the settings of {first.version}" in outcome.decision.reason
    assert outcome.plan.choice is not None
    assert outcome.plan.choice.race is None


def test_by_best_score_the_lucky_one_wins(store: Store) -> None:
    outcome = promote(_sweep().id, seeds=2)
    assert outcome.plan.start_from[0][TAU] == LUCKY
    report = make_report(outcome.plan, dict(enumerate(outcome.records)), None)
    assert report.rule == "best-score"
    assert report.flatten()["rule"] == "best-score"


def test_a_race_is_not_promoted_and_wrong_numbers_are_refused(store: Store) -> None:
    plan = _sweep()
    choice = _promote(plan).plan.choice
    assert choice is not None
    with pytest.raises(UserError, match=f"{choice.race} is the race of a promotion"):
        promote_by_rule(str(choice.race))
    with pytest.raises(UserError, match="--seeds must be at least 1, but got --seeds=0"):
        promote_by_rule(plan.id, seeds=0)
    with pytest.raises(UserError, match="--race-runs must be at least 0, but got --race-runs=-1"):
        promote_by_rule(plan.id, budget=-1)
