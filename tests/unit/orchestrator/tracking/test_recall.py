"""A sweep that is not in this home, as MLflow knows it: from a sqlite store that the real writer wrote."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import PromotionDecided
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking import connection
from orchestrator.tracking import store as mlflow_store
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.recall import RecalledSweep, rebuild_record, rebuild_state, recall_sweep
from orchestrator.tracking.run_tags import sweep_tags, trial_tags
from orchestrator.tracking.runs import StoredRun
from tests.kit import sweeps
from tests.kit.program import run
from training.config.run import Scalar
from training.selection import Protocol, SelectBy

pytestmark = pytest.mark.slow  # the schema is made once


@pytest.fixture
def log(home: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepPlan]:
    """Log a sweep from another home into the store that ``MLFLOW_TRACKING_URI`` names."""
    shutil.copy(empty_store, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")

    def log(sweep_id: str = "digits-00000001", num_events: int | None = None, **changes: Any) -> SweepPlan:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
            plan = sweeps.make_sweep(sweep_id, **changes)
            sweeps.write_events(plan, sweeps.whole_sweep(plan)[:num_events])
            assert tracking.sync(plan.id)
        return plan

    return log


def _here_and_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> tuple[str, str, str]:
    """Return what a verb prints of the journal, and what of MLflow, with its notes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
        local = run(capsys, *words)
    recalled = run(capsys, *words)
    assert (local[0], recalled[0]) == (0, 0), recalled
    return local[1], recalled[1], recalled[2]


def _without_spending(printed: str) -> str:
    """Leave out what only the journal can tell: how long each attempt took."""
    return "".join(line for line in printed.splitlines(True) if not line.lstrip().startswith("spent"))


@pytest.mark.parametrize("words", [("status",), ("leaderboard",), ("leaderboard", "--csv")])
def test_verbs_print_the_same_from_mlflow_as_from_the_journal(
    words: tuple[str, ...],
    log: Callable[..., SweepPlan],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    home: Path,
) -> None:
    plan = log(num_trials=4)
    local, recalled, notes = _here_and_there(capsys, tmp_path, words[0], "digits", *words[1:])
    # What to do next differs: only the home that has the sweep's folder can promote it.
    assert recalled.partition("next:")[0] == _without_spending(local.partition("next:")[0])
    assert f"digits-00000001 is not in this home. This is what MLflow at sqlite:///{tmp_path}/shared.db knows" in notes
    assert re.search(r"behind; its last event is .* old\.", notes)
    if words == ("leaderboard",):
        assert f"in the home of its driver, sweeps/{plan.id}/errors" in notes
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("verb", ["status", "leaderboard"])
def test_json_is_the_same_and_says_where_it_is_from(
    verb: str, log: Callable[..., SweepPlan], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log(num_trials=4)
    local, recalled, _ = _here_and_there(capsys, tmp_path, verb, "digits-00000001", "--json")
    found = json.loads(recalled)
    assert found.pop("mlflow") == f"sqlite:///{tmp_path}/shared.db"
    assert found.pop("last_event").startswith("2023-11-1")
    expected = json.loads(local)
    assert expected.pop("spending")["unit"] == "CPU-hours"
    assert found.pop("spending", None) is None
    assert found == expected


def test_an_interrupted_sweep_is_gone_on_with_on_its_cluster(
    log: Callable[..., SweepPlan], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log(num_events=14)
    local, recalled, _ = _here_and_there(capsys, tmp_path, "status", "digits")
    assert "digits, INTERRUPTED" in recalled
    assert "orchestrator submit resume digits-00000001" in recalled
    assert recalled.partition("next:")[0] == _without_spending(local.partition("next:")[0])


def test_a_running_sweep_counts_the_time_of_all_its_drivers(log: Callable[..., SweepPlan]) -> None:
    plan = log(num_events=17)
    found = recall_sweep(plan.id)
    assert found is not None
    started_ms = sweeps.START_MS + 20_000
    assert (found.state.driver_state, found.state.driven_s(started_ms + 9000)) == ("RUNNING", 7.5 + 9)
    assert (found.state.records[3].state, found.state.records[3].last_epoch) == (TrialState.RUNNING, 2)
    assert found.reported_ms == sweeps.START_MS + 23_000


def test_a_name_is_its_latest_sweep_and_nothing_the_latest_of_all(
    log: Callable[..., SweepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("voc", "voc_b", "voc", "coco")):
        monkeypatch.setattr(sweeps, "START_MS", 1_700_000_000_000 + number * 10**6)
        log(f"{name}-0000000{number}", num_events=2)

    def find(name: str | None) -> str | None:
        found: RecalledSweep | None = recall_sweep(name)
        return None if found is None else found.plan.id

    assert find("voc") == "voc-00000002"
    assert find("voc-00000000") == "voc-00000000"
    assert find("voc_b") == "voc_b-00000001"
    assert find(None) == "coco-00000003"
    assert [find(name) for name in ("vo", "voc-b", "voc-0000000", "VOC", "' OR '", "%", "t0000")] == [None] * 7


def test_a_sweep_that_is_nowhere_is_the_users_mistake(
    log: Callable[..., SweepPlan], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    log()
    code, _, err = run(capsys, "status", "dogits")
    assert code == 2
    assert f"No sweeps in {home}/sweeps" in err
    assert "shared.db has the sweep 'dogits'. No sweeps in " in err


def test_a_file_of_this_machine_is_not_searched_for_the_latest_of_all_nor_made(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run(capsys, "status")[0] == 2
    assert run(capsys, "leaderboard", "digits")[0] == 2
    assert list(home.iterdir()) == []


def test_a_server_that_is_away_is_no_mistake_and_its_password_is_not_repeated(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setattr(mlflow_store, "_LOOK_WAIT_S", 0.0)
    for words in (("status",), ("leaderboard", "digits")):
        code, _, err = run(capsys, *words)
        assert code == 1
        assert f"{home}/sweeps" in err
        assert "failed: Connection refused." in err, "the reason is not what the request was made for"
        assert "MLflow at http://me:***@127.0.0.1:9 failed" in err
        assert "hunter2" not in err


def test_a_plan_that_is_not_there_yet_is_told(log: Callable[..., SweepPlan], tmp_path: Path) -> None:
    plan = log()
    for path in (tmp_path / "elsewhere" / "artifacts").rglob("plan.json"):
        path.unlink()
    with pytest.raises(OrchestratorError, match="It is written with the first trial"):
        recall_sweep(plan.id)


def test_trials_take_no_request_each(log: Callable[..., SweepPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    log()
    calls: list[str] = []
    for name in ("search_runs", "search_experiments", "download_artifacts", "get_run", "get_metric_history"):
        original = getattr(connection.make_client(), name).__func__

        def counted(*args: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            calls.append(_name)
            return _original(*args, **named)

        monkeypatch.setattr(f"mlflow.MlflowClient.{name}", counted)
    assert recall_sweep("digits") is not None
    assert Counter(calls) == {"search_experiments": 2, "search_runs": 2, "download_artifacts": 1, "get_run": 1}


def _round_trip(plan: SweepPlan, record: TrialRecord, latest: dict[str, float]) -> TrialRecord:
    stored = StoredRun(
        "a", "FINISHED", trial_tags(plan, record, {}), record.last_epoch, started_ms=record.started_ms, metrics=latest
    )
    return rebuild_record(plan.protocol, stored)


def test_what_is_set_aside_is_recalled_and_what_has_gone_on_is_not(home: Path) -> None:
    plan = sweeps.make_sweep(scheduler="screen")
    record = TrialRecord(0, {}, "tpe", sweeps.START_MS, metrics={1: {"val/mAP": 60.0}}, spans=((0, 1),))
    aside: dict[str, Any] = {"set_aside_after": 1}
    for status, changes, state, tag in (
        ("SCHEDULED", {}, TrialState.INTERRUPTED, None),
        ("SCHEDULED", {**aside, "state": TrialState.SET_ASIDE}, TrialState.SET_ASIDE, "at epoch 1"),
        ("RUNNING", aside, TrialState.RUNNING, ""),
        ("KILLED", {**aside, "state": TrialState.PRUNED}, TrialState.PRUNED, ""),
    ):
        tags = trial_tags(plan, record.changed(**changes), {})
        assert tags.get("orchestrator.set_aside") == tag
        stored = StoredRun("a", status, tags, 1, started_ms=sweeps.START_MS, metrics={})
        assert rebuild_record(plan.protocol, stored).state is state


@pytest.mark.parametrize("select_epoch_by", [SelectBy.CLEAN_VAL, SelectBy.OBSERVED_VAL, SelectBy.LAST])
@pytest.mark.parametrize("select_config_by", [SelectBy.CLEAN_VAL, SelectBy.OBSERVED_VAL])
def test_the_chosen_epoch_and_its_value_are_kept_under_every_protocol(
    home: Path, select_config_by: SelectBy, select_epoch_by: SelectBy
) -> None:
    plan = sweeps.make_sweep(protocol=Protocol(select_config_by, select_epoch_by))
    metrics = {
        1: {"val/mAP": 60.0, "val/observed_mAP": 50.0},
        2: {"val/mAP": 59.123456789, "val/observed_mAP": 51.0},
        3: {"val/mAP": 58.0, "val/observed_mAP": 49.0},
    }
    params: dict[str, Scalar] = {"optim.lr": 1e-05, "model.frozen_bn": True, "model.name": "resnet_cam"}
    record = TrialRecord(
        0, params, "tpe", 5, TrialState.COMPLETE, metrics=metrics, attempts=3, spans=((5, 7000), (9000, 10_000))
    )
    found = _round_trip(plan, record, metrics[3])
    assert (found.value(plan.protocol), found.chosen_epoch(plan.protocol)) == (
        record.value(plan.protocol),
        record.chosen_epoch(plan.protocol),
    )
    assert (found.params, list(found.params)) == (params, list(params))
    assert (found.last_epoch, found.attempts, found.run_s, found.origin) == (3, 3, record.run_s, "tpe")


def test_of_runs_without_the_tags_the_last_epoch_is_what_is_known(home: Path) -> None:
    plan = sweeps.make_sweep()
    old = StoredRun(
        "a", "KILLED", {"orchestrator.trial": "4"}, 2, started_ms=1, metrics={"val/mAP": 40.0, "train/loss": 1.0}
    )
    state = rebuild_state(plan, StoredRun("b", "RUNNING", {}), [old, replace(old, status="FAILED")])
    assert state.records[4].state is TrialState.PRUNED
    assert state.records[4].metrics == {2: {"val/mAP": 40.0}}


def test_a_promotion_keeps_its_decision(home: Path) -> None:
    plan = sweeps.make_sweep("digits-promote-00000003", kind="promote")
    decided = PromotionDecided("KEEP", "not higher", ("a",), "spml-digits", time_ms=sweeps.at(0.9))
    sweeps.write_events(
        plan,
        [sweeps.driver_started(plan), decided, sweeps.driver_ended(1)],
    )
    state: SweepState = replay(sweep_dir(plan.id) / "journal.jsonl")
    found = rebuild_state(plan, StoredRun("b", "FINISHED", sweep_tags(plan, state), started_ms=sweeps.START_MS), [])
    assert found.promotion is not None
    assert [found.promotion.verdict, found.promotion.reason, found.promotion.model] == [
        "KEEP",
        "not higher",
        "spml-digits",
    ]
    assert (found.driven_s(), found.num_trials, found.test) == (state.driven_s(), 3, None)


def test_a_promotion_keeps_its_test_figures(home: Path) -> None:
    plan = sweeps.make_sweep("digits-promote-00000003", kind="promote")
    tags = {"orchestrator.trial": "1"}
    run_in_mlflow = StoredRun(
        "a", "FINISHED", tags, 2, metrics={"test/mAP": 61.5, "val/mAP": 60.0, "epoch": 2.0}, started_ms=sweeps.START_MS
    )
    own = StoredRun("b", "FINISHED", {"orchestrator.num_trials": "3"}, started_ms=sweeps.START_MS)
    found = rebuild_state(plan, own, [run_in_mlflow])
    assert found.test is not None
    assert found.test.figures == {"1": {"test/mAP": 61.5}}
