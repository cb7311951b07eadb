"""Test promotion: each step is taken once, whatever dies in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.run_config import read_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion import promote as promotion
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.final_runs import _identify_model, plan_promotion
from orchestrator.promotion.promote import promote, resume_promotion
from orchestrator.promotion.registration import IDENTITY_TAG, VALUES_TAG
from orchestrator.promotion.verdict import Verdict, registered_name
from orchestrator.sweep_folder.checkpoints import checkpoint_uri, trial_uri
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.sweep_folder.score_files import list_scores
from orchestrator.tracking import registry
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.connection import MlflowFailedError
from orchestrator.tracking.registry import ModelVersion
from tests.kit import sweeps
from tests.kit.fake_promotion import Store

IDENTITY = {
    "dataset": "digits",
    "data_hash": "da7a",
    "model": json.dumps({"name": "resnet_cam", "backbone": "digits/resnet12"}),
    "weights_hash": "3e1647",
    "recipe": "digits",
    "select_config_by": "clean-val",
    "select_epoch_by": "clean-val",
    "draw_seed": "1200",
    "world_size": "1",
}


def _promote(plan: SweepPlan) -> PromotionOutcome:
    return promote(plan.id, seeds=2)


def test_first_promotion_registers_the_first_seed_and_opens_the_test_split_for_all(
    swept: SweepPlan, store: Store
) -> None:
    outcome = _promote(swept)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.PROMOTE
    assert [figures["test/mAP"] for figures in outcome.test.values()] == [75.0, 75.0]
    assert outcome.version == f"{outcome.model}/1"
    assert store.versions[0].run_id == f"run-{outcome.plan.id}-0"
    assert json.loads(store.versions[0].tags[VALUES_TAG]) == [60.0, 62.0]
    assert store.opened == [1001, 1002]
    assert store.loaded == [("val", 1200)], "once for both"


def test_mlflow_is_asked_before_anything_is_trained(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    away: list[str] = []

    def refuse(advice: str) -> None:
        away.append(advice)
        raise MlflowFailedError("Connection refused", advice)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "require_answer", refuse)
        with pytest.raises(MlflowFailedError, match="refused. Nothing was started: a promotion needs MLflow"):
            _promote(swept)
    assert (store.trained, [folder.name for folder in (home / "sweeps").iterdir()]) == (0, [swept.id])
    store.fail_at = "register"
    stopped = _promote(swept)
    assert stopped.state == "INTERRUPTED"
    monkeypatch.setattr(promotion, "require_answer", refuse)
    with pytest.raises(MlflowFailedError):
        resume_promotion(stopped.plan.id)
    # One that is concluded is only read, which needs no MLflow.
    monkeypatch.setattr(promotion, "require_answer", lambda advice: None)
    store.fail_at = None
    resume_promotion(stopped.plan.id)
    monkeypatch.setattr(promotion, "require_answer", refuse)
    assert resume_promotion(stopped.plan.id).reused
    assert len(away) == 2


def test_repeated_promotion_reads_what_is_there(swept: SweepPlan, store: Store) -> None:
    first = _promote(swept)
    again = _promote(swept)
    assert (store.trained, store.opened, len(store.versions)) == (1, [1001, 1002], 1)
    assert again.reused
    assert not first.reused
    assert (again.decision, again.test, again.version) == (first.decision, first.test, first.version)
    assert promote(swept.id, seeds=2, workers=1).plan.id == first.plan.id
    store.scores = (60.0, 62.0, 64.0)
    assert promote(swept.id, seeds=3).plan.id != first.plan.id


def test_promotion_of_another_version_is_passed_over(swept: SweepPlan, store: Store, home: Path) -> None:
    plan_file = home / "sweeps" / _promote(swept).plan.id / "plan.json"
    plan_file.write_text(plan_file.read_text().replace('"sampler"', '"sampler_of_old"'))
    assert not _promote(swept).reused
    assert store.trained == 2


def test_worse_result_is_kept_back_but_its_test_split_is_opened(swept: SweepPlan, store: Store) -> None:
    champion = _promote(swept)
    store.scores = (50.0, 52.0, 54.0)
    outcome = promote(swept.id, seeds=3)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.KEEP
    assert outcome.version is None
    assert len(outcome.test) == 3
    assert outcome.model is not None
    assert str(store.champions[outcome.model]) == champion.version


@pytest.mark.parametrize("at", ["evaluate", "register", "set_champion", "after"])
def test_promotion_that_died_goes_on_where_it_was(swept: SweepPlan, store: Store, at: str) -> None:
    store.fail_at = at
    died = _promote(swept)
    assert (died.state, died.version) == ("INTERRUPTED", None)
    store.fail_at = None
    outcome = resume_promotion(_promote(swept).plan.id)
    assert (store.trained, store.opened, len(store.versions)) == (1, [1001, 1002], 1)
    assert outcome.version == str(store.champions[str(outcome.model)])
    assert outcome.reused


def test_each_set_of_final_runs_is_one_opening_however_often_it_died(swept: SweepPlan, store: Store) -> None:
    for at in ("evaluate", "evaluate", "register"):
        store.fail_at = at
        assert _promote(swept).state == "INTERRUPTED"
    store.fail_at = None
    outcome = _promote(swept)
    [opening] = read_ledger()
    assert (opening.seeds, opening.purpose) == ((1001, 1002), f"promote {outcome.plan.id}")
    test = replay(sweeps.journal_path(outcome.plan)).test
    assert test is not None
    assert (test.opening, test.line_hash) == (1, opening.hash)
    assert sorted(test.scores or {}) == [
        f"t000{trial}-{split}.parquet" for trial in (0, 1) for split in ("test", "val")
    ]
    assert sorted(list_scores(outcome.plan.id)) == [(trial, split) for trial in (0, 1) for split in ("test", "val")]
    store.scores = (60.0, 62.0, 64.0)
    promote(swept.id, seeds=3, workers=1)
    assert [opening.seeds for opening in read_ledger()] == [(1001, 1002), (1001, 1002, 1003)], "one more seed"


def test_a_damaged_ledger_keeps_the_test_split_closed(swept: SweepPlan, store: Store, home: Path) -> None:
    _promote(swept)
    head = home / "sweeps" / "test-ledger.head"
    before = head.read_text()
    head.write_text("3 abc")
    store.scores = (60.0, 62.0, 64.0)
    with pytest.raises(OrchestratorError, match=r"test-ledger.jsonl:2: .* lines 2 to 3 are missing"):
        promote(swept.id, seeds=3, workers=1)
    assert len(store.opened) == 2
    head.write_text(before)
    assert promote(swept.id, seeds=3, workers=1).test


def test_champion_that_was_deposed_meanwhile_is_decided_against_again(swept: SweepPlan, store: Store) -> None:
    store.fail_at = "register"
    died = _promote(swept)
    assert (died.state, died.version) == ("INTERRUPTED", None)
    store.fail_at = None
    name = registered_name(IDENTITY | {"model": _model_of(swept)})
    better = {
        IDENTITY_TAG: json.dumps(IDENTITY | {"model": _model_of(swept)}),
        VALUES_TAG: "[70.0]",
    }
    store.champions[name] = ModelVersion(name, 9, "other", better)
    outcome = _promote(swept)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.KEEP
    assert store.opened == [1001, 1002]
    assert str(store.champions[name]) == f"{name}/9"


def test_winner_is_written_as_a_file_that_train_reads(swept: SweepPlan, store: Store, home: Path) -> None:
    outcome = _promote(swept)
    assert outcome.config_file is not None
    assert outcome.config_file.parent == home / "promoted"
    assert read_config(outcome.config_file) == trial_config(swept, {}).flatten()
    assert "# PROMOTE: 61.00 (60.00, 62.00)" in outcome.config_file.read_text()
    assert "data.store" not in outcome.config_file.read_text()  # a path of this machine, in a file that is committed


def test_failed_run_refuses_and_is_tried_again_next_time(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweeps.trial_ended
    monkeypatch.setattr(
        sweeps,
        "trial_ended",
        lambda trial, at_s: real(trial, at_s, "FAILED", "NAN", "loss") if trial else real(trial, at_s),
    )
    outcome = _promote(swept)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.REFUSE
    assert list(outcome.test) == [0]
    monkeypatch.setattr(sweeps, "trial_ended", real)
    assert _promote(swept).plan.id != outcome.plan.id


def test_test_split_of_other_data_is_not_opened(swept: SweepPlan, store: Store) -> None:
    store.data_hash = "0ther"
    with pytest.raises(OrchestratorError, match=r"were trained on digits da7a, but it is now 0ther"):
        promote(swept.id, seeds=2)
    assert not store.opened
    assert not store.champions


def test_data_that_changed_between_the_final_runs_refuses(swept: SweepPlan, store: Store) -> None:
    plan = plan_promotion(swept.id, 2, 1)
    store.train(plan)
    sweeps.write_events(plan, [sweeps.driver_started(plan, 9, sweeps.PROVENANCE | {"data_hash": "other"})])
    outcome = _promote(swept)
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.REFUSE


@pytest.mark.parametrize(("num_events", "message"), [(13, "3 of 4 trials"), (0, "0 of 4 trials")])
def test_unfinished_sweep_is_not_promoted(num_events: int, message: str) -> None:
    plan = sweeps.make_sweep(num_trials=4)
    sweeps.write_events(plan, sweeps.whole_sweep(plan)[:num_events])
    with pytest.raises(UserError, match=message):
        promote(plan.id)


def test_promotion_is_not_promoted(swept: SweepPlan, store: Store) -> None:
    with pytest.raises(UserError, match="is itself a promotion"):
        promote(_promote(swept).plan.id)


def _model_of(plan: SweepPlan) -> str:
    return _identify_model(trial_config(plan, {}).model)


@pytest.mark.parametrize(("keep_weights", "left"), [(False, ["t0000"]), (True, ["t0000", "t0001"])])
def test_weights_of_the_other_seeds_go_once_their_figures_are_stored(
    swept: SweepPlan, store: Store, keep_weights: bool, left: list[str]
) -> None:
    outcome = promote(swept.id, seeds=2, keep_weights=keep_weights)
    assert sorted(path.name for path in Path(checkpoint_uri(outcome.plan)).iterdir()) == left
    promote(swept.id, seeds=2)  # only read: what was asked for stays
    assert sorted(path.name for path in Path(checkpoint_uri(outcome.plan)).iterdir()) == left


def test_weights_stay_until_the_test_split_was_opened(swept: SweepPlan, store: Store) -> None:
    store.fail_at = "evaluate"
    stopped = promote(swept.id, seeds=2)
    assert stopped.state == "INTERRUPTED"
    assert len(list(Path(checkpoint_uri(stopped.plan)).iterdir())) == 2


@pytest.mark.parametrize("at", ["evaluate", "register", "after"])
def test_weights_asked_for_are_kept_by_the_resume_of_an_interrupted_promotion(
    swept: SweepPlan, store: Store, at: str
) -> None:
    store.fail_at = at
    stopped = promote(swept.id, seeds=2, keep_weights=True)
    assert stopped.state == "INTERRUPTED"
    store.fail_at = None
    resumed = resume_promotion(stopped.plan.id)
    assert resumed.decision is not None
    assert sorted(path.name for path in Path(checkpoint_uri(stopped.plan)).iterdir()) == ["t0000", "t0001"]


def test_weights_are_kept_if_only_a_later_call_asks_for_them(swept: SweepPlan, store: Store) -> None:
    store.fail_at = "evaluate"
    assert not promote(swept.id, seeds=2).keep_weights
    store.fail_at = None
    outcome = promote(swept.id, seeds=2, keep_weights=True)
    assert outcome.keep_weights
    assert len(list(Path(checkpoint_uri(outcome.plan)).iterdir())) == 2


def test_a_promotion_has_no_backup_although_its_sweep_has(store: Store, tmp_path: Path) -> None:
    plan = sweeps.make_sweep(num_trials=4, backup=str(tmp_path))
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    assert _promote(plan).plan.backup is None


@pytest.mark.parametrize("asked", ["find_champion", "register_version", "set_champion"])
def test_mlflow_that_does_not_answer_leaves_a_promotion_to_be_resumed(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def fail(*args: Any) -> Any:
        raise MlflowFailedError("ConnectionError: refused")

    with monkeypatch.context() as patch:
        patch.setattr(registry, asked, fail)
        with pytest.raises(MlflowFailedError, match=r"failed: ConnectionError.*orchestrator resume digits-"):
            _promote(swept)
    outcome = _promote(swept)
    assert (store.trained, outcome.version) == (1, f"{outcome.model}/1")


def test_final_runs_that_mlflow_lacks_are_written_before_one_is_registered(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "sync", lambda sweep_id, *wait_s: False)
    with pytest.raises(OrchestratorError, match="does not have all final runs yet.*orchestrator resume"):
        _promote(swept)
    assert not store.versions


def test_a_promotion_in_a_moved_home_leaves_the_former_place_alone(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sweeps.make_sweep(num_trials=4, storage=str(home / "ckpt"))
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    Path(trial_uri(plan, 3)).mkdir(parents=True)
    moved = home.with_name("moved-home")
    home.rename(moved)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(moved))
    outcome = promote(plan.id, seeds=2)
    assert checkpoint_uri(outcome.plan) == str(moved / "ckpt" / outcome.plan.id)
    assert Path(trial_uri(outcome.plan, 0)).is_dir()
    # One whose folder of checkpoints is gone keeps them with the promotion.
    shutil.rmtree(moved / "ckpt" / plan.id)
    assert plan_promotion(plan.id, 2, None).storage is None
    assert not home.exists()
