"""Test promotion after MLflow has lost its registry: a champion is registered again, or said to be gone."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from orchestrator.cli.promote import _describe_end
from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.promote import promote, resume_promotion
from orchestrator.promotion.verdict import Verdict
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import replay
from orchestrator.tracking.run_tags import SWEEP_TAG
from tests.kit import sweeps
from tests.kit.fake_promotion import Store
from training.loop.checkpoint import CheckpointStore


def _sweep_and_promote(store: Store, sweep_id: str, *scores: float) -> PromotionOutcome:
    plan = sweeps.make_sweep(sweep_id, num_trials=4)
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    store.scores = scores
    return promote(plan.id, seeds=2)


def test_a_champion_that_mlflow_has_lost_is_registered_again_by_any_promotion_of_its_model(
    swept: SweepPlan, store: Store
) -> None:
    first = promote(swept.id, seeds=2)
    better = _sweep_and_promote(store, "better-00000002", 70.0, 72.0)
    assert (better.version, better.champion) == (f"{better.model}/2", f"{better.model}/2")
    store.lose_registry()
    # A newcomer is compared with the champion that was, and does not win because nobody is there.
    newcomer = _sweep_and_promote(store, "newcomer-00000003", 65.0, 65.0)
    assert newcomer.decision is not None
    assert newcomer.decision.verdict is Verdict.KEEP
    assert [version.tags[SWEEP_TAG] for version in store.versions] == [first.plan.id, better.plan.id]
    assert str(store.champions[str(better.model)]) == f"{better.model}/2"
    store.lose_registry()
    # The first one is read again: it says who is champion now, and nothing is trained or opened again.
    trained, opened = store.trained, len(store.opened)
    again = resume_promotion(first.plan.id)
    assert (again.version, again.champion, again.reused) == (f"{first.model}/1", f"{first.model}/2", True)
    assert again.restored
    assert _describe_end(again) == "finished earlier, what MLflow had lost is registered again"
    store.lose_registry()
    kept = resume_promotion(newcomer.plan.id)  # which registered nothing itself
    assert (kept.restored, str(store.champions[str(better.model)])) == (True, f"{better.model}/2")
    assert _describe_end(resume_promotion(newcomer.plan.id)) == "finished earlier, nothing to do"
    assert (store.trained, len(store.opened)) == (trained, opened)


def test_a_version_gets_its_new_number_in_a_new_registry(swept: SweepPlan, store: Store) -> None:
    promote(swept.id, seeds=2)
    better = _sweep_and_promote(store, "better-00000002", 70.0, 72.0)
    store.lose_registry()
    shutil.rmtree(sweeps.journal_path(load_plan(next(iter(_promotions_of(swept))))).parent)
    again = resume_promotion(better.plan.id)
    assert (again.version, again.champion) == (f"{better.model}/1", f"{better.model}/1")
    champion = replay(sweeps.journal_path(better.plan)).champion
    assert champion is not None
    assert champion.version == f"{better.model}/1"


def test_a_lost_champion_without_weights_is_said_to_be_gone(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(swept.id, seeds=2)
    store.lose_registry()
    load_best = CheckpointStore.load_best

    def lose(checkpoints: CheckpointStore, epoch: int | None = None) -> dict[str, Any] | None:
        return None if first.plan.id in checkpoints._root else load_best(checkpoints, epoch)

    monkeypatch.setattr("training.loop.checkpoint.CheckpointStore.load_best", lose)
    with pytest.raises(OrchestratorError, match=r"MLflow has lost it, .* cannot be registered again. .* Move .* away"):
        resume_promotion(first.plan.id)
    newcomer = _sweep_and_promote(store, "newcomer-00000003", 50.0, 50.0)
    assert newcomer.decision is not None
    assert newcomer.decision.verdict is Verdict.PROMOTE
    assert "the former champion 61.00 (60.00, 62.00)" in newcomer.decision.marks[-1]


def _promotions_of(plan: SweepPlan) -> list[str]:
    return [entry.id for entry in list_sweeps(kinds={"promote"}) if load_plan(entry.id).parent == plan.id]
