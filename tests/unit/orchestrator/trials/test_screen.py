"""Test the scheduler `screen`: which trials go beyond it, what they cost, and that no kill changes that."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.spending import outcome_of
from orchestrator.sweep.progress import describe_progress, estimate_left_s
from orchestrator.sweep_folder.events import EpochReported, SweepExtended, TrialEnded, TrialSetAside, TrialStarted
from orchestrator.sweep_folder.journal import Journal, follow, replay
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport, TrialState
from orchestrator.trials.director import Director
from orchestrator.trials.proposers import OptunaProposer
from tests.kit.directed import begin, events, make
from tests.kit.sweeps import journal_path
from training.metric_names import TIME_EPOCH_S, TRAIN_STOPPED, VAL_MAP

EPOCHS, SCREEN, KEEP = 4, 2, 2


def make_screened(sweep_id: str = "digits-00000001", **changes: Any) -> SweepPlan:
    """Return the plan of six trials of four epochs, of which the best two go beyond the second."""
    settings: dict[str, Any] = {"scheduler": "screen", "grace_epochs": SCREEN, "keep": KEEP}
    return make(sweep_id=sweep_id, **(settings | changes))


@dataclass
class Lab:
    """Trains trials with known curves; checkpoints are written before an epoch is reported, and outlive a driver.

    Attributes:
        curves: Trial -> scores.
        fails, stops: Trial -> the epoch that it does not finish, or after which a rule of its own ends it.
    """

    curves: dict[int, list[float]]
    fails: dict[int, int] = field(default_factory=dict)
    stops: dict[int, int] = field(default_factory=dict)
    checkpoints: dict[int, int] = field(default_factory=dict)
    running: dict[int, bool] = field(default_factory=dict)
    """Trial -> whether its attempt has to report the epoch of its checkpoint first."""

    def take(self, handout: Handout) -> None:
        self.running[handout.trial] = self.checkpoints.get(handout.trial, 0) > 0

    def step(self, director: Director, trial: int, *, unheard: bool = False) -> None:
        """Train a trial for an epoch; if it is ``unheard``, its driver dies before it knows."""
        epoch = self.checkpoints.get(trial, 0)
        if not self.running[trial]:
            epoch += 1
            if self.fails.get(trial) == epoch:
                director.report(trial, TrialReport(cause=Cause.ERROR, message="broken"))
                del self.running[trial]
                return
            self.checkpoints[trial] = epoch
        self.running[trial] = False
        if not unheard and not director.report(trial, TrialReport(epoch, self.metrics(trial, epoch))):
            del self.running[trial]

    def metrics(self, trial: int, epoch: int) -> dict[str, float]:
        stopped = {TRAIN_STOPPED: 1.0} if self.stops.get(trial) == epoch else {}
        return {VAL_MAP: self.curves[trial][epoch - 1], TIME_EPOCH_S: 1.0, **stopped}

    def run(self, director: Director, slots: int = 1) -> None:
        """Run everything to its end, the trials in turn."""
        while True:
            while len(self.running) < slots and (handout := director.next_trial()) is not None:
                self.take(handout)
            if not self.running:
                assert director.finished
                return
            for trial in list(self.running):
                self.step(director, trial)


def falling(num: int) -> dict[int, list[float]]:
    """Return curves whose order never changes: the first trial is the best."""
    return {trial: [50.0 - trial + epoch for epoch in range(EPOCHS)] for trial in range(num)}


def ends(plan: SweepPlan) -> dict[int, tuple[str, int]]:
    """Return trial -> state and last epoch; fails if an epoch or an end is in the journal twice."""
    counts = Counter((event.trial, event.epoch) for event in events(plan, EpochReported))
    counts.update((event.trial, 0) for event in events(plan, TrialEnded))
    assert max(counts.values()) == 1
    return {
        trial: (str(record.state), record.last_epoch) for trial, record in replay(journal_path(plan)).records.items()
    }


def expected(lab: Lab, num: int) -> dict[int, tuple[str, int]]:
    """Return what a plain reading of the rule gives: all to the screen, then the best of those that reach it."""
    found: dict[int, tuple[str, int]] = {}
    reached: list[tuple[float, int]] = []
    for trial in range(num):
        fails, stops = lab.fails.get(trial, EPOCHS + 1), lab.stops.get(trial, EPOCHS)
        found[trial] = ("FAILED", fails - 1) if fails <= stops else ("COMPLETE", stops)
        if min(fails - 1, stops) >= SCREEN:
            reached.append((-max(lab.curves[trial][:SCREEN]), trial))
    for _, trial in sorted(reached)[KEEP:]:
        # One that ends by itself right at the screen is complete: there is nothing to stop.
        if found[trial] != ("COMPLETE", SCREEN):
            found[trial] = ("PRUNED", SCREEN)
    return found


def test_the_best_k_of_all_go_on_whatever_happens_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill of this process is not tested
    num_aside = num_kills = 0
    for seed in range(15):
        draws = random.Random(seed)
        num, slots = draws.randint(1, 9), draws.randint(1, 4)
        plan = make_screened(f"digits-1000{seed:04d}", num_trials=num, concurrency=slots, startup_trials=num)
        # Few different scores, so that there are ties.
        curves = {trial: [float(draws.randint(40, 45)) for _ in range(EPOCHS)] for trial in range(num)}
        odd = {trial: draws.choice(["fails", "stops", "none", "none", "none"]) for trial in range(num)}
        lab = Lab(
            curves,
            {trial: draws.randint(1, EPOCHS) for trial, kind in odd.items() if kind == "fails"},
            {trial: draws.randint(1, EPOCHS) for trial, kind in odd.items() if kind == "stops"},
        )
        director = begin(plan)
        while not director.finished:
            while len(lab.running) < slots and (handout := director.next_trial()) is not None:
                lab.take(handout)
            trial = draws.choice(list(lab.running))
            chance = draws.random()
            if chance < 0.1:
                director.lose(trial, "its process died")
                del lab.running[trial]
            elif chance < 0.25:
                if lab.fails.get(trial) != lab.checkpoints.get(trial, 0) + 1:
                    lab.step(director, trial, unheard=True)
                lab.running.clear()
                director, num_kills = begin(plan), num_kills + 1
            else:
                lab.step(director, trial)
        assert ends(plan) == expected(lab, num), seed
        # What it costs: every epoch once, and none for nothing.
        assert len(events(plan, EpochReported)) == sum(last for _, last in ends(plan).values())
        num_aside += len(events(plan, TrialSetAside))
    assert min(num_aside, num_kills) > 20


def test_killed_after_any_line_and_resumed_it_comes_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    curves = falling(5) | {0: [20.0] * EPOCHS, 2: [30.0] * EPOCHS}
    changes: dict[str, Any] = {"num_trials": 5, "startup_trials": 5, "concurrency": 2}
    whole = make_screened(**changes)
    Lab(curves).run(begin(whole), 2)
    assert ends(whole) == expected(Lab(curves), 5)
    lines = journal_path(whole).read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        plan = make_screened(f"digits-2{cut:07x}", **changes)
        journal_path(plan).write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        lab = Lab(curves)
        for event in follow(journal_path(plan))[0]:
            if isinstance(event, EpochReported):
                lab.checkpoints[event.trial] = event.epoch
        lab.run(begin(plan), 2)
        assert ends(plan) == ends(whole), f"cut after line {cut}"


def test_a_trial_waits_only_while_others_may_overtake_it() -> None:
    plan = make_screened(concurrency=2)
    curves = falling(6)
    lab, director = Lab(curves), begin(plan)
    lab.run(director, 2)
    # Of two places, the first two trials keep theirs; everyone else ends at the screen, at once.
    assert [event.trial for event in events(plan, TrialEnded)] == [2, 3, 4, 5, 0, 1]
    assert [event.trial for event in events(plan, TrialStarted)] == [0, 1, 2, 3, 4, 5, 0, 1]
    # The last ones go on without a stop if they are good enough.
    rising = {trial: curves[5 - trial] for trial in range(6)}
    plan = make_screened("digits-00000002")
    Lab(rising).run(begin(plan))
    assert [event.trial for event in events(plan, TrialStarted)] == [0, 1, 2, 3, 4, 5]
    assert {trial for trial, end in ends(plan).items() if end == ("COMPLETE", EPOCHS)} == {4, 5}


def test_where_all_are_kept_none_is_set_aside() -> None:
    plan = make_screened(num_trials=KEEP)
    Lab(falling(KEEP)).run(begin(plan))
    assert ends(plan) == {0: ("COMPLETE", EPOCHS), 1: ("COMPLETE", EPOCHS)}
    assert not events(plan, TrialSetAside)


def test_new_trials_contend_with_those_that_went_on_and_none_comes_back() -> None:
    plan, curves = make_screened(num_trials=3), falling(7)
    curves |= {3: [60.0] * EPOCHS, 5: [1.0] * EPOCHS}
    lab = Lab(curves)
    lab.run(begin(plan))
    assert ends(plan)[2] == ("PRUNED", SCREEN)
    with Journal.open(journal_path(plan)) as journal:
        journal.append(SweepExtended(7))
    lab.run(begin(replace(plan, num_trials=7)))
    found = ends(plan)
    # Trial 0 holds one of the two places, and trial 1 has lost its to trial 3.
    assert {trial for trial, end in found.items() if end == ("COMPLETE", EPOCHS)} == {0, 1, 3}
    assert {trial for trial, end in found.items() if end == ("PRUNED", SCREEN)} == {2, 4, 5, 6}


def test_what_is_set_aside_waits_for_those_that_an_extension_adds() -> None:
    plan, lab = make_screened(num_trials=3, concurrency=3), Lab(falling(3))
    director = begin(plan)
    for _ in range(3):
        handout = director.next_trial()
        assert handout is not None
        lab.take(handout)
    for trial in (1, 2, 1, 2):
        lab.step(director, trial)
    assert [event.trial for event in events(plan, TrialSetAside)] == [1, 2]
    with Journal.open(journal_path(plan)) as journal:
        journal.append(SweepExtended(6))
    better = Lab({**falling(3), **{trial: [70.0 + trial] * EPOCHS for trial in (3, 4, 5)}}, checkpoints=lab.checkpoints)
    better.run(begin(replace(plan, num_trials=6)), 3)
    assert ends(plan) == {
        **dict.fromkeys((0, 1, 2, 3), ("PRUNED", SCREEN)),
        **dict.fromkeys((4, 5), ("COMPLETE", EPOCHS)),
    }


def test_the_time_set_aside_counts_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_screened(num_trials=3, time_limit_s=3600.0)
    lab, director = Lab(falling(3)), begin(plan)
    handout = director.next_trial()
    assert handout is not None
    lab.take(handout)
    director.note_work(0)
    lab.step(director, 0)
    lab.step(director, 0)
    assert not director.report(0, TrialReport(3, lab.metrics(0, 3))), "its process is told to stop, and counts no more"
    director.lose(0, "its process died")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    monkeypatch.setattr(time, "time_ns", lambda: round((now + 1e6) * 1e9))
    assert not director.is_overdue(0)
    assert director.find_waiting() is None
    lab.run(director)
    record = replay(journal_path(plan)).records[0]
    assert (record.state, record.attempts, record.set_aside_after) == (TrialState.COMPLETE, 2, 1)
    assert record.run_s < 60
    assert [outcome_of(record, attempt) for attempt in (0, 1)] == ["COMPLETE", "COMPLETE"], "neither was lost"


def test_readers_see_what_is_set_aside_whether_a_driver_runs_or_not() -> None:
    plan = make_screened(num_trials=5)
    lab, director = Lab(falling(5)), begin(plan)
    for trial in range(2):
        handout = director.next_trial()
        assert handout is not None
        lab.take(handout)
        for _ in range(SCREEN):
            lab.step(director, trial)
    handout = director.next_trial()
    assert handout is not None
    director.report(2, TrialReport(1, lab.metrics(2, 1)))
    state = replay(journal_path(plan))  # nobody holds the lease
    assert [str(record.state) for record in state.records.values()] == ["SET ASIDE", "SET ASIDE", "INTERRUPTED"]
    live = director._journal.state
    text = describe_progress(plan, live, time.time() * 1000)
    assert "2 set aside at epoch 2" in text
    assert "best 51.00 (trial 0, epoch 2)" in text
    left_s = estimate_left_s(plan, live, live.records[2].spans[-1][1])
    per_epoch_s = sum(record.run_s for record in live.records.values()) / 5
    # Two more trials to the screen, one that is on its way, and two places beyond.
    assert left_s == pytest.approx((2 * SCREEN + 1 + KEEP * (EPOCHS - SCREEN)) * per_epoch_s, abs=1e-3)


def test_tpe_takes_what_is_set_aside_for_good_and_not_for_running() -> None:
    plan = make_screened()
    lab, director = Lab(falling(6)), begin(plan)
    for trial in range(2):
        handout = director.next_trial()
        assert handout is not None
        lab.take(handout)
        for _ in range(SCREEN):
            lab.step(director, trial)
    state = director._journal.state
    for proposer in (director._proposer, OptunaProposer(plan, state.records.values())):
        assert isinstance(proposer, OptunaProposer)
        seen = proposer.study.get_trials()
        assert [each.state for each in seen] == [optuna.trial.TrialState.PRUNED] * 2
        assert [each.intermediate_values for each in seen] == [{1: 50.0, 2: 51.0}, {1: 49.0, 2: 50.0}]


def test_a_screen_of_a_machine_that_runs_out_of_memory_ends() -> None:
    plan = make_screened(num_trials=3)
    lab, director = Lab(falling(3)), begin(plan)
    assert director.next_trial() is not None
    director.report(0, TrialReport(cause=Cause.OOM, message="out of memory"))
    lab.run(director)
    assert ends(plan) == expected(lab, 3)
