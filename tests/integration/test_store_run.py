"""Test `TrainingRun` on a store: workers, resume, a store that moved, observed labels only, and no process left."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.kit.fingerprint import fingerprint, train
from tests.kit.scored_test import evaluate_test
from tests.kit.stores import make_store, store_config
from training.errors import ConfigError, NonFiniteLossError
from training.inference.evaluation import evaluate_split
from training.loop.run import TrainingRun
from training.models import backbone

OBSERVED = {"loop.select_epoch_by": "observed-val"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("run"))


def num_children() -> int:
    return len(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("order", ["resized", "original"])
def test_workers_and_place_change_no_result_and_stop_no_resume(tmp_path: Path, order: str) -> None:
    first = make_store(tmp_path / "first", keep_originals=True)
    config = store_config(first, {"loop.epochs": 3, "data.augment_order": order})
    whole = fingerprint(train(config))
    train(config.with_params({"data.num_workers": 2}), tmp_path / "checkpoints", stop_after=1)
    moved = tmp_path / "moved"
    Path(first).rename(moved)
    resumed = train(config.with_params({"data.store": str(moved), "data.num_workers": 1}), tmp_path / "checkpoints")
    assert fingerprint(resumed) == whole


def test_run_and_evaluation_agree_and_the_test_split_is_scored(uri: str, tmp_path: Path) -> None:
    config = store_config(uri, {"data.num_workers": 2, "loop.select_epoch_by": "last"})
    run = train(config, tmp_path / "checkpoints")
    again = evaluate_split(config, run.best_state(), "val")
    assert again == {name: pytest.approx(run.metrics[name]) for name in again}
    assert 0 < evaluate_test(config, run.best_state())["test/mAP"] <= 100
    run.write_artifacts(tmp_path / "artifacts")
    assert (tmp_path / "artifacts" / "cam" / "cam.png").is_file()


def test_observed_labels_alone(tmp_path: Path) -> None:
    uri = make_store(tmp_path, observed_only=True)
    config = store_config(uri, {"data.num_workers": 1, **OBSERVED})
    run = train(config, tmp_path / "checkpoints")
    assert run.identity["true_labels"] == "not available"
    assert {name.split("_")[0] for name in run.metrics if name.startswith("val/")} == {
        "val/covering",
        "val/estimated",
        "val/observed",
    }
    assert not [name for name in run.metrics if "precision" in name or "recall" in name or "lift" in name]
    assert all(math.isfinite(value) for value in run.metrics.values())
    assert {name.split("_")[0] for name in evaluate_test(config, run.best_state())} == {"test/observed"}
    with pytest.raises(ConfigError, match="clean-val needs true validation labels"):
        TrainingRun(store_config(uri))
    with pytest.raises(ConfigError, match="full_labels needs true labels, but mine has only observed ones"):
        TrainingRun(store_config(uri, {"method.name": "full_labels", **OBSERVED}))


class TestNothingIsLeftBehind:
    def test_after_each_epoch_and_after_a_failed_step(self, uri: str) -> None:
        before = num_children()
        run = TrainingRun(store_config(uri, {"data.num_workers": 2}))
        seen = []
        run._model.register_forward_pre_hook(lambda model, inputs: seen.append(num_children()))
        run.train_epoch()
        assert max(seen) > before, "there were workers to end"
        assert num_children() == before
        run._model.register_forward_pre_hook(lambda model, inputs: (torch.full_like(inputs[0], float("nan")),))
        with pytest.raises(NonFiniteLossError) as kept:
            run.train_epoch()
        assert num_children() == before
        assert kept.value.__traceback__ is not None

    def test_run_after_run_in_one_process(self, uri: str) -> None:
        before = num_children()
        for seed in range(3):
            TrainingRun(store_config(uri, {"data.num_workers": 2, "loop.seed": seed})).train_epoch()
            assert num_children() == before

    @pytest.mark.slow
    def test_workers_of_a_run_that_is_killed_end_too(self, uri: str, tmp_path: Path) -> None:
        changes = {"data.num_workers": 2, "loop.epochs": 100000, "optim.batch_size": 1}
        arguments = [json.dumps(store_config(uri, changes).flatten()), str(tmp_path), "100000"]
        arguments.append(json.dumps(backbone.WIDTHS))
        root = Path(__file__).parents[2]
        run = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.fingerprint", *arguments], cwd=root, env=dict(os.environ)
        )
        try:
            workers = _wait_for(lambda: psutil.Process(run.pid).children(recursive=True))
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert _wait_for(
            lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        )


def _wait_for(ask: Any, seconds: float = 240) -> Any:
    # Importing torch alone takes the better part of a minute on a busy machine.
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = ask()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing came within {seconds} s")
