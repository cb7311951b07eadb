"""Test the evaluation of trained weights on a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.scenes import tiny_config
from tests.kit.scored_test import evaluate_test
from tests.kit.stores import make_store, store_config
from training.inference.evaluation import evaluate_split
from training.loop.run import TrainingRun
from training.metrics import compute_metrics


@pytest.mark.usefixtures("tiny_scenes")
def test_weights_of_a_run_give_the_runs_own_metrics_again() -> None:
    run = TrainingRun(tiny_config({"method.name": "assumed_negative"}))
    metrics = run.train_epoch()
    state = run.best_state()
    again = evaluate_split(run.config, state, "val")
    assert again["val/mAP"] > 0
    assert again == {name: pytest.approx(metrics[name]) for name in again}
    train, test = evaluate_split(run.config, state, "train"), evaluate_test(run.config, state)
    assert {name.removeprefix("train/") for name in train} == {name.removeprefix("test/") for name in test}
    assert train["train/mAP"] != test["test/mAP"] != again["val/mAP"]


@pytest.mark.usefixtures("tiny_scenes")
def test_threshold_and_absent_classes_are_those_asked_for() -> None:
    run = TrainingRun(tiny_config({"method.name": "assumed_negative", "loop.epochs": 1}))
    run.train_epoch()
    logits, true, observed = run._val_scores()
    found = evaluate_split(run.config, run.best_state(), "val", threshold=0.2, absent_classes="skip")
    expected = compute_metrics("val", logits, true, observed, threshold=0.2, absent_classes="skip")
    assert found == {name: pytest.approx(value) for name, value in expected.items()}
    assert found["val/OR"] > run.metrics["val/OR"]


def test_test_split_is_not_to_be_had_by_evaluate_split() -> None:
    with pytest.raises(ValueError, match="split must be train or val"):
        evaluate_split(tiny_config(), {"classes": []}, "test")  # type: ignore[arg-type]


def test_a_test_split_without_images_has_no_figures(tmp_path: Path) -> None:
    assert evaluate_test(store_config(make_store(tmp_path, num_test=0)), {}) == {}, "0 would look like a result"
