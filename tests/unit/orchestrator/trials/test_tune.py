from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import TrialLost
from orchestrator.sweep_folder.journal import Journal, follow
from orchestrator.sweep_folder.records import Cause, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT
from orchestrator.trials.deaths import MemoryKills
from orchestrator.trials.director import MAX_LOSSES, Director
from orchestrator.trials.tune import _Finished, _HandoutSearcher, _ReportStopper, _StepCallback, _Trials
from tests.kit.sweeps import driver_started, journal_path, make_sweep, trial_started, write_events
from training.metric_names import VAL_MAP

ADDRESS = "192.0.2.7"


@pytest.fixture
def plan() -> SweepPlan:
    return make_sweep()


@pytest.fixture
def director(plan: SweepPlan) -> Director:
    write_events(plan, [driver_started(plan)])
    return Director(plan, Journal.open(journal_path(plan)))


MakeTrials = Callable[..., _Trials]


@pytest.fixture
def make_trials(plan: SweepPlan, director: Director, monkeypatch: pytest.MonkeyPatch) -> MakeTrials:
    """Return a function that makes a driver's trials, on nodes where the kernel killed nothing for lack of memory."""
    monkeypatch.setattr(MemoryKills, "look", lambda self: None)

    def make(*, grew: bool = False) -> _Trials:
        monkeypatch.setattr(MemoryKills, "grew", lambda self, address: grew and address == ADDRESS)
        return _Trials(plan, director, lambda: True)

    return make


def tune_trial(trial_id: str, tmp_path: Path, error: Exception | None = None) -> Any:
    """Return the parts of a Tune trial that our hooks read; it has died of an error, or is running."""
    file = tmp_path / "error.pkl"
    file.write_bytes(cloudpickle.dumps(error))  # type: ignore[no-untyped-call]
    return SimpleNamespace(
        trial_id=trial_id,
        pickled_error_file=str(file),
        error_file=None,
        temporary_state=SimpleNamespace(ray_actor="actor"),
    )


def test_at_the_cap_what_was_begun_goes_on_and_nothing_new_begins(plan: SweepPlan) -> None:
    write_events(plan, [driver_started(plan), trial_started(0, 1)])
    with Journal.open(journal_path(plan)) as journal:
        director = Director(plan, journal)
        searcher = _HandoutSearcher(_Trials(plan, director, lambda: False))
        handed = searcher.suggest("a")
        assert handed is not None
        assert handed[HANDOUT].trial == 0
        assert searcher.suggest("b") is None
        director.lose(0, "gone")
        for _ in range(MAX_LOSSES - 1):
            director.lose(director.next_trial().trial, "gone")  # type: ignore[union-attr]
        with pytest.raises(OrchestratorError, match=r"budget\.cap_gib"):
            searcher.suggest("c")


@pytest.mark.parametrize("grew", [True, False])
def test_a_lost_worker_was_out_of_memory_if_its_nodes_kernel_says_so(
    grew: bool, make_trials: MakeTrials, director: Director
) -> None:
    trials = make_trials(grew=grew)
    trials.hand_out("a")
    stopper = _ReportStopper(trials, lambda: False)
    report = TrialReport(cause=Cause.LOST, message="worker died", details=f"ip: {ADDRESS}\n")
    assert stopper("a", {REPORT: report})
    assert director._journal.state.records[0].needs_all is grew
    lost = next(event for event in follow(director._journal.path)[0] if isinstance(event, TrialLost))
    assert lost.cause == ("OOM" if grew else "LOST")


@pytest.mark.parametrize("grew", [True, False])
def test_a_death_is_read_from_the_exception_that_tune_kept(
    grew: bool, make_trials: MakeTrials, director: Director, tmp_path: Path
) -> None:
    trials = make_trials(grew=grew)
    trials.hand_out("a")
    text = f"The actor died unexpectedly before finishing this task.\n\tip: {ADDRESS}\nexit detail: it was killed."
    trial = tune_trial("a", tmp_path, RayActorError(error_msg=text))
    callback = _StepCallback(trials, lambda: None)
    callback.on_trial_start(0, [], trial)
    callback.on_trial_error(0, [], trial)
    lost = next(event for event in follow(director._journal.path)[0] if isinstance(event, TrialLost))
    assert lost.cause == ("OOM" if grew else "LOST")
    assert lost.message == ("the kernel killed it: its control group was out of memory" if grew else "it was killed.")
    callback.on_trial_error(0, [], trial)  # which had ended
    assert len([event for event in follow(director._journal.path)[0] if isinstance(event, TrialLost)]) == 1


def test_an_error_of_a_report_stops_the_trial_and_is_raised_as_it_is_at_the_next_step(
    make_trials: MakeTrials, director: Director, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials = make_trials()
    trials.hand_out("a")
    error, later = OrchestratorError("the journal cannot be written"), OrchestratorError("nor now")
    errors = [error, later]

    def refuse(*arguments: Any) -> bool:
        raise errors.pop(0)

    monkeypatch.setattr(director, "report", refuse)
    monkeypatch.setattr(director, "lose", refuse)
    callback = _StepCallback(trials, lambda: None)
    callback.on_step_begin(0, [])
    assert _ReportStopper(trials, lambda: False)("a", {REPORT: TrialReport(1, {VAL_MAP: 1.0})})
    callback.on_trial_error(0, [], tune_trial("a", tmp_path))
    assert errors == []
    with pytest.raises(OrchestratorError) as raised:
        callback.on_step_begin(1, [])
    assert raised.value is error


def test_a_trial_that_runs_and_is_overdue_is_killed_until_it_is_gone(
    make_trials: MakeTrials, director: Director, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(director, "is_overdue", lambda trial: True)
    monkeypatch.setattr("orchestrator.trials.tune._LOOK_S", 0.0)
    trials = make_trials()
    callback, trial = _StepCallback(trials, lambda: None), tune_trial("a", tmp_path)
    trials.hand_out("a")
    callback.on_step_begin(0, [])
    assert killed == [], "it waits for a node"
    assert director._overdue.working_since == {}
    callback.on_trial_start(0, [], trial)
    assert list(director._overdue.working_since) == [0]
    callback.on_step_begin(1, [])
    assert killed == ["actor"]
    callback.on_trial_complete(1, [], trial)
    callback.on_step_begin(2, [])
    assert killed == ["actor"]


def test_a_step_for_every_result_of_a_thousand_trials_does_not_look_at_all_of_them_each_time(
    make_trials: MakeTrials, director: Director, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [1000.0]
    looked: list[int] = []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(director, "is_overdue", looked.append)
    trials = make_trials()
    callback = _StepCallback(trials, lambda: None)
    trials.hand_out("a")
    callback.on_trial_start(0, [], tune_trial("a", tmp_path))
    for step in range(100):
        now[0] += 0.021
        callback.on_step_begin(step, [])
    assert len(looked) == 3, "once a second"


def test_tune_ends_when_nothing_is_left(make_trials: MakeTrials, director: Director, plan: SweepPlan) -> None:
    trials = make_trials()
    searcher = _HandoutSearcher(trials)
    for trial in range(plan.num_trials):
        handed = searcher.suggest(str(trial))
        assert handed is not None
        assert handed[HANDOUT].trial == trial
        trials.report(str(trial), TrialReport(cause=Cause.ERROR, message="no data"))
    with pytest.raises(_Finished):
        searcher.suggest("last")


def test_a_stop_of_all_is_the_users(make_trials: MakeTrials) -> None:
    asked = [False]
    stopper = _ReportStopper(make_trials(), lambda: asked[0])
    assert not stopper.stop_all()
    asked[0] = True
    assert stopper.stop_all()


def test_tune_can_pickle_the_stopper_into_its_snapshot(make_trials: MakeTrials) -> None:
    assert isinstance(pickle.loads(pickle.dumps(_ReportStopper(make_trials(), lambda: False))), _ReportStopper)


def test_a_driver_that_slept_says_so_before_anybody_is_overdue(
    make_trials: MakeTrials, director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    absences: list[float] = []
    monkeypatch.setattr(director, "note_absence", absences.append)
    callback = _StepCallback(make_trials(), lambda: None)
    callback.on_step_begin(0, [])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 500)
    callback.on_step_begin(1, [])
    callback.on_step_begin(2, [])
    assert absences == [pytest.approx(500, abs=5)]
