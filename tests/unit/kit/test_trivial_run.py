"""A trivial run says from where it continued, if it is asked to."""

from __future__ import annotations

from pathlib import Path

from tests.kit.trivial_run import RESUMED_FROM, TrivialRun, TrivialRuns
from training.config.run import TrainConfig


def train(runs: TrivialRuns, storage: Path, epochs: int) -> TrivialRun:
    run = runs(TrainConfig.from_flat({"loop.epochs": 9}), str(storage))
    run.resume()
    for _ in range(epochs):
        run.train_epoch()
        run.save()
    return run


def test_every_epoch_says_where_its_attempt_began(tmp_path: Path) -> None:
    runs = TrivialRuns(tell_start=True)
    assert train(runs, tmp_path, 2).metrics[RESUMED_FROM] == 0
    said_again = train(runs, tmp_path, 0)
    assert (said_again.epoch, said_again.metrics[RESUMED_FROM]) == (2, 2)
    assert train(runs, tmp_path, 1).metrics[RESUMED_FROM] == 2
    (tmp_path / "last.json").write_text("{")
    assert train(runs, tmp_path, 1).metrics[RESUMED_FROM] == 2


def test_nobody_else_finds_a_metric_more(tmp_path: Path) -> None:
    first = train(TrivialRuns(), tmp_path, 2)
    assert RESUMED_FROM not in first.metrics
    assert train(TrivialRuns(), tmp_path, 0).metrics == first.metrics
