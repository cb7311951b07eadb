"""Test what published recipes ask of a run apart from the method.

These are averaged weights, early stops, cycles, no normalisation, and no small last batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kit.fingerprint import fingerprint, train, train_and_keep
from tests.kit.scenes import prepare_tiny, thin_trunks, tiny_config
from training.inference.evaluation import evaluate_split
from training.loop.checkpoint import CheckpointStore
from training.loop.run import TrainingRun
from training.metric_names import TRAIN_STOPPED, VAL_AVERAGE_GAIN, VAL_MAP

# 64 images in batches of 12: five full ones and one of four.
RULES: dict[str, dict[str, Any]] = {
    "averaged weights": {"optim.average_decay": 0.9},
    "two cycles": {"optim.cycle_epochs": 2},
    "a cycle that is cut": {"optim.cycle_epochs": 9},
    "no small batch": {"optim.drop_last": True, "optim.batch_size": 12},
    "plain pixels": {"data.normalisation": "none"},
    "all": {
        "optim.average_decay": 0.9,
        "optim.cycle_epochs": 2,
        "optim.drop_last": True,
        "optim.batch_size": 12,
        "data.normalisation": "none",
        "loop.patience_epochs": 3,
    },
}
# A learning rate at which every epoch is worse than the first.
WORSE: dict[str, Any] = {"optim.lr": 0.5, "optim.schedule": "constant", "loop.epochs": 6}


@pytest.fixture(scope="module", autouse=True)
def _scenes(_isolated_environment: None) -> Iterator[None]:
    prepare_tiny()
    with thin_trunks():
        yield


@pytest.fixture(scope="module")
def plain(_scenes: None) -> dict[str, Any]:
    """Return the fingerprint of a run without any of these rules."""
    return fingerprint(train(tiny_config()))


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_goes_on_bit_for_bit(rule: str, tmp_path: Path) -> None:
    config = tiny_config(RULES[rule])
    *_, run = train_and_keep(config, tmp_path)
    for stop in (1, 3) if rule == "all" else (2,):
        torch.manual_seed(stop)
        resumed = train(config, tmp_path / str(stop))
        assert fingerprint(resumed) == fingerprint(run)


@pytest.mark.parametrize(
    "rule", ["averaged weights", "two cycles", "a cycle that is cut", "no small batch", "plain pixels"]
)
def test_each_rule_changes_the_run(rule: str, plain: dict[str, Any]) -> None:
    assert fingerprint(train(tiny_config(RULES[rule]))) != plain


def test_the_better_set_of_weights_is_kept_and_scores_what_was_reported(tmp_path: Path) -> None:
    chosen = set()
    for lr, decay in ((1e-2, 0.8), (3e-3, 0.9999)):
        config = tiny_config(
            {"optim.lr": lr, "optim.average_decay": decay, "optim.schedule": "constant", "loop.epochs": 3}
        )
        storage = tmp_path / str(lr)
        run = train(config, storage)
        state = CheckpointStore(storage).load_best(run.best_epoch)
        assert state is not None
        leads = state["metrics"][VAL_AVERAGE_GAIN] > 0
        chosen.add(leads)
        assert evaluate_split(config, state, "val")[VAL_MAP] == pytest.approx(state["metrics"][VAL_MAP])
        if run.best_epoch == run.epoch:
            of_set = run.state_dict()["average" if leads else "model"]
            assert all(torch.equal(value, of_set[name]) for name, value in state["model"].items())
    assert chosen == {True, False}, "one of each, or this test shows half of it"


def test_pictures_and_tables_are_of_the_chosen_weights(tmp_path: Path) -> None:
    config = tiny_config({"optim.lr": 3e-2, "optim.average_decay": 0.8, "optim.schedule": "constant", "loop.epochs": 2})
    run = train(config, tmp_path)
    best = CheckpointStore(tmp_path).load_best(run.best_epoch)
    assert best is not None
    run.load_best()
    assert all(torch.equal(value, best["model"][name]) for name, value in run.state_dict()["model"].items())


class TestStopping:
    @pytest.mark.parametrize("rule", [{"loop.patience_epochs": 1}, {"loop.max_drop_percent": 0.5}])
    def test_a_run_that_gets_worse_ends_before_its_length(self, rule: dict[str, Any], tmp_path: Path) -> None:
        config = tiny_config(WORSE | rule)
        run = train(config, tmp_path)
        assert run.finished
        assert run.epoch < config.loop.epochs
        assert run.metrics[TRAIN_STOPPED] == 1
        again = TrainingRun(config, storage=tmp_path)
        assert again.resume()
        assert again.finished, "what a rule ended is not trained on"

    def test_stopped_and_resumed_before_it_ends_where_it_would_have(self, tmp_path: Path) -> None:
        config = tiny_config(WORSE | {"loop.patience_epochs": 1})
        whole = train(config)
        assert whole.epoch > 1
        train(config, tmp_path, stop_after=1)
        assert fingerprint(train(config, tmp_path)) == fingerprint(whole)

    def test_until_then_it_is_the_run_without_the_rule(self) -> None:
        stopped, free = train(tiny_config(WORSE | {"loop.patience_epochs": 1})), TrainingRun(tiny_config(WORSE))
        while free.epoch < stopped.epoch:
            free.train_epoch()
        assert TRAIN_STOPPED not in free.metrics
        assert fingerprint(free)["state"] == fingerprint(stopped)["state"]

    def test_a_run_of_full_length_was_not_stopped(self) -> None:
        run = train(tiny_config({"loop.patience_epochs": 4}))
        assert run.epoch == 4
        assert TRAIN_STOPPED not in run.metrics
