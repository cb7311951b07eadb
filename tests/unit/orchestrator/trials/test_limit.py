from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.cost import Cost, Reserve
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep.extension import Extension, extending, require_higher_limit
from orchestrator.sweep_folder import journal as journal_module
from orchestrator.sweep_folder.events import DriverEnded, LimitReached, TrialStarted
from orchestrator.sweep_folder.journal import Journal, follow, replay
from orchestrator.sweep_folder.records import TrialRecord, TrialReport, TrialState
from orchestrator.trials import director as director_module
from orchestrator.trials import overdue as overdue_module
from orchestrator.trials.director import Director
from orchestrator.trials.limit import PastTrials, project_spending, require_enough_hours, round_up
from search_spaces.ranges import Range
from tests.kit.sweeps import START_MS, driver_started, journal_path, make_sweep
from training.metric_names import TIME_EPOCH_S, VAL_MAP

EPOCHS, HOUR = 4, 3600.0
RANGES = {"method.spbc_weight": Range(type="float", low=0, high=2)}


class Clock:
    def __init__(self) -> None:
        self.now = START_MS / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    faked = SimpleNamespace(time=lambda: made.now, time_ns=lambda: round(made.now * 1000) * 1_000_000)
    for module in (director_module, journal_module, overdue_module):
        monkeypatch.setattr(module, "time", faked)
    return made


def make(**changes: Any) -> SweepPlan:
    settings: dict[str, Any] = {"ranges": RANGES, "num_trials": 24, "startup_trials": 24, "scheduler": "none"}
    plan = make_sweep(**(settings | changes))
    return replace(plan, base=plan.base | {"loop.epochs": EPOCHS})


@dataclass
class Cluster:
    """Runs trials on a simulated clock; checkpoints outlive a kill."""

    clock: Clock
    slots: int = 1
    epoch_s: Callable[[int, int], float] = lambda trial, epoch: HOUR
    checkpoints: dict[int, int] = field(default_factory=dict)
    num_reports: int = 0

    def run(self, plan: SweepPlan, kill_after: int | None = None) -> None:
        """Run one driver to its end, or to a kill after so many reports of all drivers."""
        with Journal.open(journal_path(plan)) as journal:
            started = driver_started(plan)
            journal.append(replace(started, time_ms=0, num_trials=journal.state.total(plan.num_trials)))
            director = Director(plan, journal)
            director.record_missed_ends()
            due: list[tuple[float, int]] = []
            while True:
                while len(due) < self.slots and (handout := director.next_trial()) is not None:
                    director.note_work(handout.trial)
                    self._await_epoch(due, handout.trial)
                if not due:
                    break
                self.clock.now, trial = heapq.heappop(due)
                if self.num_reports == kill_after:
                    return
                self.num_reports += 1
                epoch = self.checkpoints[trial] = self.checkpoints.get(trial, 0) + 1
                took = self.epoch_s(trial, epoch)
                report = TrialReport(epoch, {"epoch": epoch, VAL_MAP: 50.0 + trial, TIME_EPOCH_S: took})
                if director.report(trial, replace(report, queue_s=0.0, start_s=0.0)):
                    self._await_epoch(due, trial)
            assert director.finished
            journal.append(DriverEnded("FINISHED"))

    def _await_epoch(self, due: list[tuple[float, int]], trial: int) -> None:
        took = self.epoch_s(trial, self.checkpoints.get(trial, 0) + 1)
        heapq.heappush(due, (self.clock.now + took, trial))


def states(plan: SweepPlan) -> dict[str, int]:
    return dict(Counter(str(record.state) for record in replay(journal_path(plan)).records.values()))


def limits(plan: SweepPlan) -> list[LimitReached]:
    return [event for event in follow(journal_path(plan))[0] if isinstance(event, LimitReached)]


def hours(plan: SweepPlan) -> float:
    return sum(plan.resources.hours(record.held_s) for record in replay(journal_path(plan)).records.values())


def test_no_trial_starts_that_could_break_the_limit_and_the_reserve_is_kept(clock: Clock) -> None:
    # A run takes 4 hours. After nine, a promotion has 6 runs for its race and 5 to report: 36 + 44 = 80.
    for number, slots in enumerate((1, 3)):
        plan = make(sweep_id=f"digits-0000000{number}", max_gpu_hours=80.0)
        Cluster(clock, slots).run(plan)
        assert states(plan) == {"COMPLETE": 9}
        (reached,) = limits(plan)
        assert [reached.max_gpu_hours, reached.spent, reached.reserved] == pytest.approx([80, 36, 44])
        assert reached.message == (
            "the limit of 80 CPU-hours does not allow another trial: 36 are spent, and a promotion may take 44"
        )
        state = replay(journal_path(plan))
        assert state.is_done(plan.num_trials)
        assert (state.is_limited, len(state.records), state.total(plan.num_trials)) == (True, 9, 24)


def test_gpus_count_and_not_cpus_and_an_ablation_keeps_nothing(clock: Clock) -> None:
    plan = make(max_gpu_hours=40.0, resources=Resources(1, 8, 0.5))
    Cluster(clock).run(plan)
    assert (states(plan), limits(plan)[0].message.split(" does")[0]) == ({"COMPLETE": 9}, "the limit of 40 GPU-hours")
    points = tuple({"loop.seed": seed} for seed in range(9))
    plan = make(sweep_id="digits-00000002", kind="ablate", ranges={}, start_from=points, num_trials=9)
    plan = replace(plan, max_gpu_hours=21.0)
    Cluster(clock).run(plan)
    assert (states(plan), limits(plan)[0].reserved) == ({"COMPLETE": 5}, 0)


def test_a_sweep_below_its_limit_never_mentions_it(clock: Clock) -> None:
    plan = make(max_gpu_hours=200.0, num_trials=5)
    Cluster(clock, 2).run(plan)
    assert (states(plan), limits(plan)) == ({"COMPLETE": 5}, [])
    assert not replay(journal_path(plan)).is_limited


def test_killed_anywhere_a_resumed_sweep_keeps_its_limit(clock: Clock) -> None:
    for kill_after in range(1, 36, 4):
        plan = make(sweep_id=f"digits-1{kill_after:07x}", max_gpu_hours=80.0)
        cluster = Cluster(clock, 3)
        cluster.run(plan, kill_after)
        clock.now += 50 * HOUR  # in which nothing runs, and nothing is spent
        cluster.run(plan)
        # What epochs under way took until the kill is lost, and counts; a trial may no longer fit, and then it ends.
        assert states(plan) in ({"COMPLETE": 8, "PRUNED": 1}, {"COMPLETE": 8}, {"COMPLETE": 9}), kill_after
        spent = hours(plan)
        assert spent + Reserve().count(9) * EPOCHS <= 80 + 1e-9, kill_after
        assert len(limits(plan)) == 1
        before = len(follow(journal_path(plan))[0])
        assert replay(journal_path(plan)).is_done(plan.num_trials)
        cluster.run(plan)  # as a driver would not even: nothing is handed out again
        assert len(follow(journal_path(plan))[0]) <= before + 3


def test_trials_that_turn_out_slower_stop_after_their_epoch(clock: Clock) -> None:
    plan = make(max_gpu_hours=80.0)
    cluster = Cluster(clock, 3, lambda trial, epoch: HOUR if trial < 3 else 3 * HOUR)
    cluster.run(plan)
    ended = replay(journal_path(plan)).records
    assert states(plan)["COMPLETE"] == 3
    stopped = [record for record in ended.values() if record.state is TrialState.PRUNED]
    assert stopped
    assert all("the limit of 80 CPU-hours" in str(record.message) for record in stopped)
    assert hours(plan) <= 80
    assert max(event.time_ms for event in follow(journal_path(plan))[0] if isinstance(event, TrialStarted)) < min(
        record.ended_ms or 0 for record in stopped
    ), "nothing started after the first was stopped"


def test_the_plan_says_how_slow_a_trial_is_before_any_has_run(clock: Clock) -> None:
    cost = Cost(
        p50_hours=96,
        p90_hours=96,
        epochs=96,
        p50_wall_s=0,
        p90_wall_s=0,
        slots=1,
        reserved_runs=17,
        reserved_hours=68,
        epoch_basis="",
        survival_basis="",
    )
    plan = make(max_gpu_hours=47.0, cost=cost)  # a trial and 11 runs of 4 hours are 48
    Cluster(clock).run(plan)
    assert (states(plan), limits(plan)[0].spent) == ({}, 0)


def test_a_screen_keeps_what_its_best_trials_take_and_lets_them_go_on(clock: Clock) -> None:
    # To the screen 1 hour a trial, and 3 more for two of them. After four trials of together 4 + 6 hours, a promotion
    # has 6 runs for its race and 5 to report: 54. Without that share, nine could be screened, and none finished.
    for number, slots in enumerate((1, 3)):
        plan = make(sweep_id=f"digits-0000000{number}", max_gpu_hours=54.0, scheduler="screen", keep=2)
        Cluster(clock, slots).run(plan)
        assert states(plan) == {"PRUNED": 2, "COMPLETE": 2}
        records = replay(journal_path(plan)).records
        assert [records[trial].state for trial in (2, 3)] == [TrialState.COMPLETE] * 2, "later trials score higher"
        (reached,) = limits(plan)
        assert [reached.spent, reached.reserved] == pytest.approx([10, 44])
        assert replay(journal_path(plan)).is_done(plan.num_trials)


def test_what_waits_for_another_attempt_ends_if_it_does_not_fit(clock: Clock) -> None:
    plan = make(max_gpu_hours=80.0)
    cluster = Cluster(clock, 1)
    cluster.run(plan, kill_after=34)  # the ninth trial has had two epochs
    cluster.epoch_s = lambda trial, epoch: 2 * HOUR
    with Journal.open(journal_path(plan)) as journal:
        past = PastTrials(plan, journal.state.records.values())
        assert (past.epochs, past.measure_pace([]).epoch_s) == (32, HOUR)
    tight = replace(plan, max_gpu_hours=78.0)
    cluster.run(tight)
    records = replay(journal_path(plan)).records
    assert (records[8].state, records[8].last_epoch) == (TrialState.PRUNED, 2)
    assert "the limit of 78 CPU-hours" in str(records[8].message)


def test_an_extension_raises_the_limit_and_one_that_fails_to_start_leaves_it(clock: Clock) -> None:
    plan = make(max_gpu_hours=80.0)
    cluster = Cluster(clock, 1)
    cluster.run(plan)
    state = replay(journal_path(plan))
    for change, message in (
        (None, r"has ended early: the limit of 80 CPU-hours .* orchestrator extend digits-00000001 --max-gpu-hours H"),
        (80.0, r"must be above 80, the present limit, but got --max-gpu-hours=80"),
        (-1.0, "must be a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            require_higher_limit(plan, state, change)
    require_higher_limit(plan, state, 100.0)
    with (
        Journal.open(journal_path(plan)) as journal,
        pytest.raises(OSError, match="no Ray"),
        extending(plan, journal, Extension(0, 100)),
    ):
        raise OSError("no Ray")
    state = replay(journal_path(plan))
    assert (state.is_limited, state.driver_state, state.max_gpu_hours) == (True, "FINISHED", 80)
    with Journal.open(journal_path(plan)) as journal, extending(plan, journal, Extension(0, 90)):
        assert (journal.state.is_limited, journal.state.driver_state) == (False, "INTERRUPTED")
        assert not journal.state.is_done(plan.num_trials)
    cluster.run(plan)
    # 44 for eleven trials, and 6 + 5 runs: 88; with a twelfth 92.
    assert states(plan) == {"COMPLETE": 11}
    assert [event.max_gpu_hours for event in limits(plan)] == [80, 90]
    assert replay(journal_path(plan)).is_limited
    with pytest.raises(ValueError, match="has no limit of CPU-hours"):
        require_higher_limit(replace(plan, max_gpu_hours=None), replace(state, max_gpu_hours=None), 5.0)


def test_waiting_for_a_process_is_not_spent() -> None:
    plan = make(sweep_id="digits-00000009")
    start = START_MS
    waiting = TrialRecord(0, {}, "random", start, spans=((start, start),))
    past = PastTrials(plan)

    def spent(record: TrialRecord, now_s: float, working: dict[int, float]) -> float:
        return project_spending(plan, past, [record], [], start / 1000 + now_s, working).spent_s

    assert spent(waiting, 500, {}) == 0
    assert spent(waiting, 500, {0: start / 1000 + 400}) == 100
    reported = replace(waiting, metrics={1: {}}, queue_s=400.0, spans=((start, start + 450_000),))
    assert spent(reported, 500, {0: start / 1000 + 400}) == 100


def test_a_trial_waits_until_its_process_runs(clock: Clock) -> None:
    plan = make(sweep_id="digits-0000000a")
    with Journal.open(journal_path(plan)) as journal:
        journal.append(replace(driver_started(plan), time_ms=0))
        director = Director(plan, journal)
        assert director.find_waiting() is None
        for _ in range(2):
            assert director.next_trial() is not None
            clock.now += 10
        assert director.find_waiting() == (2, START_MS)
        director.note_work(0)
        assert director.find_waiting() == (1, START_MS + 10_000)
        director.report(1, TrialReport(1, {"epoch": 1, VAL_MAP: 50.0}))
        assert director.find_waiting() is None


def test_runs_of_a_champion_are_kept_too(clock: Clock) -> None:
    # 9 trials of 4 hours, and 6 + 5 runs of a promotion, 3 + 5 of a champion: 36 + 76 = 112.
    plan = make(max_gpu_hours=112.0, reserve=Reserve(with_champion=True))
    Cluster(clock, 2).run(plan)
    assert (states(plan), limits(plan)[0].reserved) == ({"COMPLETE": 9}, 76)
    again = SweepPlan.from_json(plan.to_json())
    assert (again.reserve, again.count_reserved(9.0)) == (plan.reserve, 19)


def test_the_runs_of_a_promotion_wait_for_a_higher_limit(clock: Clock) -> None:
    points = tuple({"loop.seed": seed} for seed in range(5))
    common: dict[str, Any] = {"kind": "promote", "ranges": {}, "start_from": points, "num_trials": 5}
    plan = make(sweep_id="digits-promote-0000000b", max_gpu_hours=13.0, **common)
    cluster = Cluster(clock)
    cluster.run(plan)
    assert (states(plan), limits(plan)[0].reserved) == ({"COMPLETE": 3}, 0)
    assert limits(plan)[0].message == "the limit of 13 CPU-hours does not allow another run: 12 are spent"
    # With slower epochs, the run that is under way is not lost: it continues from its checkpoint.
    with Journal.open(journal_path(plan)) as journal, extending(plan, journal, Extension(0, 17)):
        assert not journal.state.is_done(5)
    cluster.epoch_s = lambda trial, epoch: 2 * HOUR
    cluster.run(plan)
    state = replay(journal_path(plan))
    assert (states(plan), state.records[3].last_epoch) == ({"COMPLETE": 3, "INTERRUPTED": 1}, 3)
    assert (state.is_done(5), state.is_limited, hours(plan)) == (True, True, 18), "an epoch more than expected"
    with Journal.open(journal_path(plan)) as journal, extending(plan, journal, Extension(0, 40)):
        assert journal.state.driver_state == "INTERRUPTED"
    cluster.run(plan)
    assert (states(plan), len(limits(plan))) == ({"COMPLETE": 5}, 2)


def test_a_limit_below_one_trial_is_refused_with_the_least_that_would_do() -> None:
    hour = {"p50_hours": 96.0, "p90_hours": 96.0, "epochs": 96.0, "p50_wall_s": 0.0, "p90_wall_s": 0.0, "slots": 1}
    cost = Cost(**hour, reserved_runs=17, reserved_hours=68, epoch_basis="", survival_basis="")  # type: ignore[arg-type]
    for kind, least in (("sweep", 48), ("ablate", 4)):
        plan = make(sweep_id=f"{kind}-0000000c", kind=kind, cost=cost, max_gpu_hours=least - 0.5)
        with pytest.raises(UserError, match=rf"may take, so nothing would run\. Use at least --max-gpu-hours {least}$"):
            require_enough_hours(plan)
        require_enough_hours(replace(plan, max_gpu_hours=float(least)))
    require_enough_hours(replace(plan, cost=None))
    assert [f"{round_up(value):g}" for value in (0.0123, 0.5, 12.34, 48)] == ["0.013", "0.5", "13", "48"]
