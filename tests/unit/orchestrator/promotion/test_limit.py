"""Test promotions below a limit of GPU-hours: the reported runs are kept, and the race gets what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion import promote as promoting
from orchestrator.promotion.conclusion import LIMITED
from orchestrator.promotion.promote import promote, promote_by_rule, promote_in_suite, resume_promotion
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.events import Event, LimitReached, SweepExtended
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.trials.race_blocks import read_race
from tests.kit import sweeps
from tests.kit.fake_promotion import Store
from training.config.run import Scalar

TAU = "method.cam_threshold"
RUN_S = 3600.0
"""Each run takes an hour of one CPU."""


def _score(plan: SweepPlan, point: Mapping[str, Scalar]) -> float:
    return 70 + 20 * float(point.get(TAU) or 0) + (int(point["loop.seed"] or 0) * 7 % 5) / 2


class Drivers(Store):
    """Runs what a limit allows, an hour each; the director's own rule is tested elsewhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.score_of = _score
        self.plans: list[SweepPlan] = []
        monkeypatch.setattr(promoting, "resume", self.resume)

    def resume(self, sweep_id: str, options: DriveOptions) -> SweepOutcome:
        plan = load_plan(sweep_id)
        if options.max_gpu_hours is not None:
            sweeps.write_events(plan, [SweepExtended(plan.num_trials, options.max_gpu_hours)])
        return self.train(plan, options)

    def train(self, plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
        state = replay(sweeps.journal_path(plan))
        if state.driver_state is None:
            self.trained += 1
            self.plans.append(plan)
            sweeps.create(plan)
        limit = state.max_gpu_hours or plan.max_gpu_hours or 1e9
        kept = plan.reserve.count(0) if plan.reserve is not None and plan.max_gpu_hours is not None else 0
        can = min(plan.num_trials, int(limit - kept + 1e-6))
        events: list[Event] = [sweeps.driver_started(plan)]
        for trial in range(len(state.records), can):
            point, start = plan.start_from[trial], trial * RUN_S
            events.append(sweeps.trial_started(trial, start, 1, **point))
            events += [sweeps.epoch_reported(trial, epoch, start + epoch, _score(plan, point)) for epoch in (1, 2, 3)]
            events.append(sweeps.trial_ended(trial, start + RUN_S))
        if can < plan.num_trials:
            events.append(LimitReached(limit, float(can), 0.0, "the limit"))
        sweeps.write_events(plan, [*events, sweeps.driver_ended(plan.num_trials * RUN_S)])
        records = tuple(replay(sweeps.journal_path(plan)).records.values())
        return SweepOutcome(plan, records, "FINISHED", 1.0)


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Drivers:
    return Drivers(monkeypatch)


def _sweep(sweep_id: str = "digits-00000001", suite: str | None = None, better: float = 0.0) -> SweepPlan:
    taus = [0.30 + 0.05 * trial + better / 100 for trial in range(12)]
    plan = sweeps.make_sweep(sweep_id, num_trials=len(taus), suite=suite)
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, tau in enumerate(taus):
        start = trial * RUN_S
        events.append(sweeps.trial_started(trial, start, 1, **{TAU: tau}))
        for epoch in (1, 2, 3):
            reported = sweeps.epoch_reported(trial, epoch, start + epoch * 1200, 70 + 20 * tau)
            events.append(replace(reported, metrics={**reported.metrics, "time/epoch_s": 1200, "time/checkpoint_s": 0}))
        events.append(sweeps.trial_ended(trial, start + RUN_S))
    sweeps.write_events(plan, [*events, sweeps.driver_ended(12 * RUN_S)])
    return plan


def test_the_race_gets_what_the_reported_runs_leave(drivers: Drivers) -> None:
    outcome = promote_by_rule(_sweep().id, max_gpu_hours=9.5)
    race, final = drivers.plans
    assert race.choice is not None
    assert (race.choice.num_entrants * race.choice.blocks <= 4, race.choice.limited_from) == (True, 6)
    assert (race.max_gpu_hours, race.count_reserved(100), final.num_trials) == (9.5, 5, 5)
    assert final.max_gpu_hours == pytest.approx(9.5 - race.num_trials)
    assert race.cost is not None
    assert outcome.decision is not None
    # The same command reads it, whatever the limit was; another race would be another promotion.
    assert promote_by_rule(_sweep_id(), max_gpu_hours=9.5).reused
    assert promote_by_rule(_sweep_id(), budget=6).reused
    assert drivers.trained == 2


def _sweep_id() -> str:
    return "digits-00000001"


def test_a_limit_without_room_for_the_report_is_refused_with_the_least_that_would_do(drivers: Drivers) -> None:
    plan = _sweep()
    with pytest.raises(UserError, match=r"at least 5 runs of about 1 hours\. Use at least --max-gpu-hours 5$"):
        promote_by_rule(plan.id, max_gpu_hours=4.9)
    with pytest.raises(UserError, match=r"Use at least --max-gpu-hours 3$"):
        promote(plan.id, max_gpu_hours=2.0)
    with pytest.raises(UserError, match="must be a number above 0"):
        promote_by_rule(plan.id, max_gpu_hours=-1.0)
    assert (drivers.trained, [entry.id for entry in list_sweeps()]) == (0, [plan.id])
    promote_by_rule(plan.id, max_gpu_hours=5.0)
    assert [found.kind for found in drivers.plans] == ["promote"], "nothing is left for a race"
    # A champion is reported too, and races three times against one candidate at least.
    assert drivers.champions
    better = _sweep("again-00000002", better=2.0)
    with pytest.raises(UserError, match=r"at least 16 runs .* Use at least --max-gpu-hours 16$"):
        promote_by_rule(better.id, max_gpu_hours=15.5)


def test_final_runs_that_reach_the_limit_decide_nothing_and_go_on_below_a_higher_one(drivers: Drivers) -> None:
    plan, said = _sweep(), list[str]()
    first = promote(plan.id, seeds=4, max_gpu_hours=4.0)
    assert first.decision is not None
    outcome = promote_in_suite(
        _sweep("cell-00000003", "mine-0a1b2c3d").id, seeds=4, race_runs=0, max_gpu_hours=2.5, say=said.append
    )
    assert (outcome.state, outcome.decision, len(read_ledger())) == (LIMITED, None, 1)
    assert any("2 of 4 final runs have ended, so nothing is decided" in line for line in said)
    again = resume_promotion(outcome.plan.id)
    assert (again.state, len(again.records)) == (LIMITED, 2)
    done = resume_promotion(outcome.plan.id, max_gpu_hours=4.0)
    assert (done.state, len(done.records), len(read_ledger())) == ("FINISHED", 4, 2)


def test_a_race_that_its_limit_ends_decides_by_what_has_run(drivers: Drivers) -> None:
    plan = _sweep()
    promote_by_rule(plan.id, max_gpu_hours=11.0)
    race = replace(drivers.plans[0], id="digits-race-0000000f")
    sweeps.create(race)
    choice = race.choice
    assert choice is not None
    events: list[Event] = [sweeps.driver_started(race)]
    cut = choice.num_entrants * (choice.blocks - 1)
    for trial, point in enumerate(race.start_from[: cut + 1]):
        events += [sweeps.trial_started(trial, 1, 1, **point), sweeps.epoch_reported(trial, 3, 2, _score(race, point))]
        events.append(sweeps.trial_ended(trial, 3, "PRUNED" if trial == cut else "COMPLETE"))
    sweeps.write_events(race, events)
    found = read_race(race, replay(sweeps.journal_path(race)).records.values())
    assert found.failed == ()
    assert {len(scores) for scores in found.scores.values()} == {choice.blocks - 1}
    assert set(found.left) <= set(range(choice.num_entrants))
