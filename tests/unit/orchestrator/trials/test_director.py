from __future__ import annotations

import errno
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.sweep_folder.events import EpochReported, SweepExtended, TrialEnded, TrialStarted
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Cause, Handout, TrialReport, TrialState
from orchestrator.trials.actor import describe_failure
from orchestrator.trials.director import MAX_LOSSES, Director
from orchestrator.trials.pruner import Pruner
from tests.kit.directed import begin, events, make
from tests.kit.sweeps import driver_started, epoch_reported, journal_path, trial_started, write_events
from training.metric_names import VAL_MAP


def metrics(handout: Handout, epoch: int) -> dict[str, float]:
    weight = float(handout.params["method.spbc_weight"] or 0)
    return {"epoch": epoch, VAL_MAP: 80 - 20 * abs(weight - 1) + epoch}


@dataclass
class Machine:
    """One slot. Its checkpoints outlive it, as on a storage, and are written before an epoch is reported."""

    checkpoints: dict[int, int] = field(default_factory=dict)

    def run(self, director: Director, num_reports: int | None = None) -> None:
        """Run what is handed out, until there is nothing left or so many reports were made."""
        reports = 0
        while (handout := director.next_trial()) is not None:
            epoch = self.checkpoints.get(handout.trial, 0)
            goes_on = director.report(handout.trial, TrialReport(epoch, metrics(handout, epoch))) if epoch else True
            while goes_on:
                epoch += 1
                self.checkpoints[handout.trial] = epoch
                if reports == num_reports:
                    return
                reports += 1
                goes_on = director.report(handout.trial, TrialReport(epoch, metrics(handout, epoch)))


def summary(plan: SweepPlan) -> dict[int, tuple[str, list[int], dict[str, Any]]]:
    """Return what must not depend on kills: trial -> state, epochs in order, params. Fails if an
    epoch occurs twice.
    """
    with Journal.open(journal_path(plan)) as journal:
        records = journal.state.records
    counts = Counter((event.trial, event.epoch) for event in events(plan, EpochReported))
    assert not counts or max(counts.values()) == 1
    assert max(Counter(event.trial for event in events(plan, TrialEnded)).values(), default=1) == 1
    return {
        trial: (str(record.state), sorted(record.metrics), dict(record.params)) for trial, record in records.items()
    }


def test_a_sweep_runs_to_its_end_and_prunes() -> None:
    plan = make()
    director = begin(plan)
    Machine().run(director)
    assert director.finished
    states = Counter(state for state, _, _ in summary(plan).values())
    assert sum(states.values()) == 6
    assert states["PRUNED"] >= 1
    assert states["COMPLETE"] >= 1


def test_killed_after_any_line_and_resumed_a_sweep_comes_to_the_same_end() -> None:
    whole = make()
    Machine().run(begin(whole))
    expected = summary(whole)
    lines = journal_path(whole).read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        plan = make(sweep_id=f"digits-1{cut:07x}")
        journal_path(plan).write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        machine = Machine()
        for event in follow(journal_path(plan))[0]:
            if isinstance(event, EpochReported):
                machine.checkpoints[event.trial] = event.epoch
        machine.run(begin(plan))
        assert summary(plan) == expected, f"cut after line {cut}"


def test_nothing_is_written_before_it_is_asked_for() -> None:
    plan = make()
    write_events(
        plan,
        [driver_started(plan), trial_started(0, 1), *(epoch_reported(0, epoch, 1 + epoch) for epoch in range(1, 5))],
    )
    before = journal_path(plan).read_bytes()
    with Journal.open(journal_path(plan)) as journal:
        director = Director(plan, journal)
        assert journal_path(plan).read_bytes() == before
        director.record_missed_ends()
    assert [event.state for event in events(plan, TrialEnded)] == ["COMPLETE"]


def test_killed_between_checkpoint_and_report_the_epoch_is_reported_after_all() -> None:
    whole = make()
    Machine().run(begin(whole))
    plan, machine = make(sweep_id="digits-00000002"), Machine()
    for _ in range(8):
        machine.run(begin(plan), num_reports=2)  # dies with one checkpoint more than it reported
    machine.run(begin(plan))
    assert summary(plan) == summary(whole)


def test_with_the_checkpoints_gone_known_epochs_are_not_counted_twice() -> None:
    plan = make()
    Machine().run(begin(plan), num_reports=2)
    Machine().run(begin(plan))
    assert all(epochs == list(range(1, len(epochs) + 1)) for _, epochs, _ in summary(plan).values())


def test_an_epoch_is_in_the_journal_before_anything_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make()
    seen: list[bool] = []

    def cuts(self: Pruner, trial: int, epoch: int, value: float) -> bool:
        seen.append(any((event.trial, event.epoch) == (trial, epoch) for event in events(plan, EpochReported)))
        return False

    monkeypatch.setattr(Pruner, "cuts", cuts)
    Machine().run(begin(plan))
    assert len(seen) == 6 * 3
    assert all(seen)


def test_params_are_in_the_journal_before_a_trial_is_handed_out() -> None:
    plan = make()
    handout = begin(plan).next_trial()
    assert handout is not None
    assert [event.params for event in events(plan, TrialStarted)] == [handout.params]


def test_unfinished_trials_come_first_with_their_numbers_and_params() -> None:
    plan = make(concurrency=2)
    first = begin(plan)
    handed = [first.next_trial() for _ in range(2)]
    first.report(1, TrialReport(1, {VAL_MAP: 50.0}))
    second = begin(plan)
    again = [second.next_trial() for _ in range(3)]
    assert [handout and (handout.trial, handout.params) for handout in again[:2]] == [
        handout and (handout.trial, handout.params) for handout in handed
    ]
    assert again[2] is not None
    assert again[2].trial == 2
    assert again[1] is not None
    assert again[1].metrics == {1: {VAL_MAP: 50.0}}
    assert [event.attempt for event in events(plan, TrialStarted)] == [1, 1, 2, 2, 1]


def test_a_failure_ends_its_trial_and_no_other() -> None:
    plan = make()
    told: list[Any] = []
    director = begin(plan, on_end=told.append, on_failure=lambda trial, details: told.append((trial, details)))
    director.next_trial()
    assert not director.report(0, TrialReport(cause=Cause.NAN, message="loss must be finite", details="Traceback"))
    failure, record = told  # the traceback first: MLflow reads it when it sees the end
    assert failure == (0, "Traceback")
    assert (record.state, record.cause, record.message) == (TrialState.FAILED, Cause.NAN, "loss must be finite")
    following = director.next_trial()
    assert following is not None
    assert following.trial == 1


def test_a_full_storage_stops_the_sweep_and_fails_no_trial() -> None:
    plan = make()
    director = begin(plan)
    handout = director.next_trial()
    assert handout is not None
    report = describe_failure(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OrchestratorError, match=r"Trial 0 cannot write its checkpoint: OSError.*No space left"):
        director.report(handout.trial, report)
    again = begin(plan).next_trial()
    assert again is not None
    assert (again.trial, again.params) == (0, handout.params)


def test_a_missing_metric_is_a_named_failure() -> None:
    plan = make()
    director = begin(plan)
    director.next_trial()
    assert not director.report(0, TrialReport(1, {"train/loss": 1.0}))
    (event,) = events(plan, TrialEnded)
    assert (event.cause, event.message) == (
        "ERROR",
        "An epoch's metrics must include val/mAP, but got train/loss.",
    )


def test_a_trial_that_is_lost_without_getting_on_is_given_up() -> None:
    plan = make(num_trials=2)
    director = begin(plan)
    for attempt in range(1, MAX_LOSSES + 1):
        handout = director.next_trial()
        assert handout is not None
        assert (handout.trial, director.num_running) == (0, 1)
        if attempt % 2:
            director.lose(0, "worker died")
        else:
            assert not director.report(0, TrialReport(cause=Cause.LOST, message="worker died"))
        assert director.num_running == 0
        assert not director.finished
    (event,) = events(plan, TrialEnded)
    assert (event.state, event.cause) == ("FAILED", "LOST")
    assert event.message == "worker died (10 times without a new epoch)"
    Machine().run(director)
    assert director.finished


def test_a_trial_that_gets_on_may_be_lost_as_often_as_it_likes() -> None:
    plan = make(num_trials=1, scheduler="none")
    director, lost = begin(plan), 0
    for epoch in range(1, 4):
        for _ in range(MAX_LOSSES - 2):
            handout = director.next_trial()
            assert handout is not None
            if epoch > 1:
                assert director.report(0, TrialReport(epoch - 1, metrics(handout, epoch - 1))), (
                    "said again: it is nothing new"
                )
            director.lose(0, "worker died")
            lost += 1
        handout = director.next_trial()
        assert handout is not None
        assert director.report(0, TrialReport(epoch, metrics(handout, epoch)))
        director.lose(0, "worker died")
    assert lost > MAX_LOSSES
    assert not events(plan, TrialEnded)
    Machine({0: 3}).run(director)
    assert [event.state for event in events(plan, TrialEnded)] == ["COMPLETE"]


def test_out_of_memory_it_is_tried_once_more_when_nothing_else_runs() -> None:
    plan = make(num_trials=3, scheduler="none", concurrency=2)
    director = begin(plan)
    for _ in range(2):
        director.next_trial()
    assert not director.report(0, TrialReport(cause=Cause.OOM, message="OutOfMemoryError: tried 2 GiB"))
    following = director.next_trial()
    assert following is not None
    assert following.trial == 2
    assert director.next_trial() is None, "others run"
    for trial in (1, 2):
        director.report(trial, TrialReport(4, {VAL_MAP: 50.0}))
    assert not director.finished
    assert director.continues_next
    again = director.next_trial()
    assert again is not None
    assert (again.trial, again.alone) == (0, True)
    director.lose(0, "worker died")  # not for memory: still alone
    director = begin(plan)  # killed and resumed: still alone
    assert director.next_trial() == replace(again, handed_ms=director._journal.state.records[0].spans[-1][0])
    assert director.next_trial() is None
    director.lose(0, "node was running low on memory", Cause.OOM)
    failed = events(plan, TrialEnded)[-1]
    assert (failed.trial, failed.cause) == (0, "OOM")
    assert failed.message == "node was running low on memory, and again when it ran alone"
    assert director.finished


def test_with_gpus_it_waits_for_no_other_trial() -> None:
    plan = make(num_trials=3, resources=Resources(gpus_per_worker=0.5))
    director = begin(plan)
    for _ in range(2):
        director.next_trial()
    director.report(0, TrialReport(cause=Cause.OOM, message="OutOfMemoryError"))
    again = director.next_trial()
    assert again is not None
    assert (again.trial, again.alone) == (0, True)
    assert director.next_trial() is not None


def test_losses_under_an_earlier_driver_are_not_held_against_a_trial() -> None:
    plan = make()
    for _ in range(MAX_LOSSES + 1):
        director = begin(plan)
        director.next_trial()
        director.lose(0, "worker died")
    assert not events(plan, TrialEnded)


def test_artifacts_are_kept_before_the_last_epoch_is_journalled() -> None:
    plan = make()
    seen: list[tuple[int, dict[str, bytes], int]] = []
    director = begin(
        plan, on_artifacts=lambda trial, files: seen.append((trial, files, len(events(plan, EpochReported))))
    )
    director.next_trial()
    director.report(0, TrialReport(4, {VAL_MAP: 50.0}, artifacts={"a.txt": b"x"}))
    assert seen == [(0, {"a.txt": b"x"}, 0)]


def test_a_handout_carries_the_best_value_so_far() -> None:
    plan = make(scheduler="none")
    director = begin(plan)
    values = []
    for score in (50.0, 60.0, 55.0, 70.0):
        handout = director.next_trial()
        assert handout is not None
        values.append(handout.best_value)
        director.report(handout.trial, TrialReport(4, {VAL_MAP: score}))
    assert values == [None, 50.0, 60.0, 60.0]


def test_an_extended_sweep_goes_on_behind_its_last_trial() -> None:
    plan = make(num_trials=2)
    Machine().run(begin(plan))
    with Journal.open(journal_path(plan)) as journal:
        journal.append(SweepExtended(5))
    resumed = replace(plan, num_trials=5)
    Machine().run(begin(resumed))
    assert list(summary(plan)) == [0, 1, 2, 3, 4]


def test_what_goes_into_the_journal_is_plain_json(tmp_path: Path) -> None:
    plan = make()
    Machine().run(begin(plan))
    for line in journal_path(plan).read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_epochs_that_the_journal_lost_are_named_when_a_trial_continues_behind_them() -> None:
    plan, said = make(), list[str]()
    started = trial_started(0, 1, 1, **{"method.spbc_weight": 1.0})
    write_events(plan, [driver_started(plan), started, epoch_reported(0, 1, 2)])
    director = begin(plan, say=said.append)
    handout = director.next_trial()
    assert handout is not None
    for epoch in (1, 2, 5):
        director.report(handout.trial, TrialReport(epoch, metrics(handout, epoch)))
    assert said == ["trial 0 continues from epoch 5; the figures of epoch 3 to 4 are lost"]


def test_a_trial_that_starts_again_says_why() -> None:
    plan, said = make(), list[str]()
    started = trial_started(0, 1, 1, **{"method.spbc_weight": 1.0})
    write_events(plan, [driver_started(plan), started, epoch_reported(0, 1, 2), epoch_reported(0, 2, 3)])
    director = begin(plan, say=said.append)
    handout = director.next_trial()
    assert handout is not None
    scores = metrics(handout, 1)
    director.report(0, TrialReport(1, scores, resumed_from=0, passed_over=("last-0002.pt", "last-0001.pt")))
    director.report(0, TrialReport(1, scores, resumed_from=0))
    director.report(0, TrialReport(1, scores, resumed_from=1, passed_over=("last-0002.pt",)))
    director.report(0, TrialReport(2, metrics(handout, 2)))
    assert said == [
        "trial 0 starts again from epoch 1: its checkpoints are damaged (last-0002.pt, last-0001.pt)",
        "trial 0 starts again from epoch 1: it has no checkpoint",
        "trial 0 continues from epoch 1: its newer checkpoint last-0002.pt is incomplete",
    ]
