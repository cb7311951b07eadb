"""Test ``TrainingRun`` end to end on tiny scenes: resumed, one after another, and with losses that are not finite."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from tests.kit.clip_scores import drawn_scores
from tests.kit.fingerprint import fingerprint, train, train_and_keep, train_elsewhere
from tests.kit.scenes import RECIPES, prepare_tiny, thin_trunks, tiny_config
from tests.kit.scored_test import evaluate_test
from training.cache import cache_dir
from training.config.passes import count_epoch_images
from training.config.run import ADDED_SETTINGS
from training.errors import CheckpointError, DatasetError, NonFiniteLossError
from training.inference.evaluation import evaluate_split
from training.loop.run import TrainingRun
from training.methods.registry import METHODS

_Q2L: dict[str, Any] = {
    "model.name": "query2label",
    "model.hidden_dim": 16,
    "model.feedforward_dim": 16,
    "model.dropout": 0.2,
}
_LARGE: dict[str, Any] = {"method.name": "large_loss", "method.delta_rel_percent": 3.0}
_PLC: dict[str, Any] = {"method.first_threshold": 0.5, "method.first_stage_epochs": 1, "method.queue_size": 16}
METHOD_CASES: dict[str, dict[str, Any]] = {
    **{
        name: {"method.name": name}
        for name in (
            "assumed_negative",
            "an_ls",
            "em",
            "epr",
            "role",
            "crisp",
            "mime",
            "plc",
            "focal",
            "asl",
            "hill",
            "splc",
            "gr_loss",
            "gpr",
            "aevlp",
            "vlpl",
            "iu",
            "iun",
            "bce_ls",
        )
    },
    "em_apl": {"method.name": "em_apl", "method.warmup_epochs": 2},
    "LL-R": _LARGE,
    "LL-Ct": _LARGE | {"method.scheme": "LL-Ct"},
    "LL-Cp": _LARGE | {"method.scheme": "LL-Cp"},
    "BoostLU + LL-Cp": _LARGE | {"method.scheme": "LL-Cp", "model.cam_boost": 5.0},
    "ignore, Query2Label with dropout": _Q2L,
    "plc_lac": {"method.name": "plc_lac", **_PLC, **_Q2L},
}
"""One of each method in addition to ``RECIPES``, stopped once it has state to keep, if it ever has any."""


@pytest.fixture(scope="module", autouse=True)
def _scenes(_isolated_environment: None) -> Iterator[None]:
    prepare_tiny()
    with thin_trunks(), drawn_scores():
        yield


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


class TestResume:
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_stopped_after_any_epoch_a_run_goes_on_bit_for_bit(self, recipe: str, tmp_path: Path) -> None:
        config = tiny_config(RECIPES[recipe])
        prints = [fingerprint(run) for run in train_and_keep(config, tmp_path)]
        for stop in range(1, config.loop.epochs):
            torch.manual_seed(stop)  # what happens in between must not change the result
            resumed = TrainingRun(config, storage=tmp_path / str(stop))
            assert resumed.resume()
            assert resumed.epoch == stop
            assert fingerprint(resumed) == prints[stop - 1], "the epoch's metrics are there to be reported again"
            assert fingerprint(train(config, tmp_path / str(stop))) == prints[-1]

    @pytest.mark.parametrize("case", METHOD_CASES)
    def test_what_a_method_keeps_goes_through_the_checkpoint(self, case: str, tmp_path: Path) -> None:
        config = tiny_config(METHOD_CASES[case])
        kept: dict[str, Tensor] = {}
        for run in train_and_keep(config, tmp_path):
            if run.epoch == 2:
                kept = _copied(run._method.state_dict())
        fresh = TrainingRun(config)._method.state_dict()
        changed = [name for name, value in kept.items() if not torch.equal(value, fresh[name])]
        # These keep what they drew or read before the first step.
        is_constant = case in {"iu", "aevlp", "vlpl"}
        assert bool(changed) == bool(fresh) or is_constant, "or nothing is shown of a method that keeps something"
        torch.manual_seed(2)  # what happens in between must not change the result
        resumed = TrainingRun(config, storage=tmp_path / "2")
        assert resumed.resume()
        assert all(torch.equal(value, kept[name]) for name, value in resumed._method.state_dict().items())
        assert fingerprint(train(config, tmp_path / "2")) == fingerprint(run)

    def test_every_method_is_resumed(self) -> None:
        assert {tiny_config(case).method.name for case in (RECIPES | METHOD_CASES).values()} == set(METHODS)

    @pytest.mark.slow
    def test_resumed_in_another_process_a_run_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        config = tiny_config()
        whole = fingerprint(train(config))
        train(config, tmp_path, stop_after=2)
        assert train_elsewhere(config, tmp_path) == whole

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        assert not TrainingRun(tiny_config()).resume()
        assert not TrainingRun(tiny_config(), storage=tmp_path).resume()

    @pytest.mark.parametrize(
        ("key", "value"), [("optim.lr", 1e-4), ("loop.seed", 9), ("method.cam_threshold", 0.25), ("loop.epochs", 9)]
    )
    def test_checkpoint_of_another_configuration_is_refused(self, tmp_path: Path, key: str, value: float) -> None:
        train(tiny_config(), tmp_path, stop_after=1)
        with pytest.raises(CheckpointError, match=f"belongs to another configuration: its {key} is .*, not {value}"):
            TrainingRun(tiny_config({key: value}), storage=tmp_path).resume()

    def test_checkpoint_of_an_earlier_version_goes_on_with_the_defaults_of_later_settings(self) -> None:
        config = tiny_config({"optim.average_decay": 0.9, "loop.patience_epochs": 3})
        run = train(config, stop_after=2)
        state = run.state_dict()
        for key in ADDED_SETTINGS:
            del state["config"][key]
        del state["best_of_sets"]  # later too
        resumed = TrainingRun(config)
        resumed.load_state_dict(state)
        assert resumed.epoch == 2
        for one in (run, resumed):
            one.train_epoch()
        assert fingerprint(resumed)["metrics"] == fingerprint(run)["metrics"]
        with pytest.raises(CheckpointError, match=r"its model.frozen_stem is False, not True"):
            TrainingRun(tiny_config({"model.frozen_stem": True})).load_state_dict(state)

    def test_a_state_in_memory_is_not_trained_along(self) -> None:
        config = tiny_config()
        first = train(config, stop_after=2)
        state = first.state_dict()
        kept = _copied(_moments(state))
        second = TrainingRun(config)
        second.load_state_dict(state)
        second.train_epoch()
        assert all(torch.equal(value, kept[name]) for name, value in _moments(state).items())
        first.train_epoch()
        assert fingerprint(first) == fingerprint(second)

    def test_the_best_weights_and_the_last_two_states_are_kept(self, tmp_path: Path) -> None:
        run = train(tiny_config(), tmp_path)
        names = sorted(path.name for path in tmp_path.glob("*.pt"))
        assert names == [f"best-{run.best_epoch:04d}.pt", "last-0003.pt", "last-0004.pt"]
        assert run.finished
        assert run.metrics["time/checkpoint_s"] > 0


def _moments(state: dict[str, Any]) -> dict[str, Tensor]:
    moments = state["optimizer"]["state"]
    return {f"{index} {name}": value for index, values in moments.items() for name, value in values.items()}


@pytest.mark.slow
def test_a_run_after_others_in_one_process_equals_the_same_run_in_a_fresh_one() -> None:
    config = tiny_config({"loop.epochs": 2})
    train(
        tiny_config({"method.name": "em", "optim.name": "sgd", "loop.epochs": 2, "loop.seed": 5, "loop.num_threads": 2})
    )
    train(
        tiny_config(
            {"method.masked_pass_bn": "train", "model.weights": "none", "optim.batch_size": 7, "loop.epochs": 1}
        )
    )
    assert fingerprint(train(config)) == train_elsewhere(config)


def test_every_seed_matters_and_each_for_itself() -> None:
    def losses(changes: dict[str, Any]) -> dict[str, float]:
        return {
            name: value
            for name, value in train(tiny_config({"loop.epochs": 1} | changes)).metrics.items()
            if "time" not in name
        }

    base = losses({})
    assert losses({}) == base
    assert losses({"loop.seed": 1}) != base
    assert losses({"data.draw_seed": 1}) != base


class TestMetrics:
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_metrics_are_finite_floats_with_the_epoch(self, recipe: str) -> None:
        run, shares = TrainingRun(tiny_config(RECIPES[recipe])), []
        while not run.finished:
            metrics = run.train_epoch()
            assert metrics is run.metrics
            assert metrics["epoch"] == run.epoch
            assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
            assert {
                "train/loss",
                "train/lr",
                "val/mAP",
                "val/observed_mAP",
                "val/covering_rate",
                "val/estimated_accuracy",
                "time/epoch_s",
                "time/data_s",
            } <= metrics.keys()
            assert {"val/pointing_hit_rate", "val/centre_hit_rate", "val/cam_iou"} <= metrics.keys()
            parts = [value for name, value in metrics.items() if name.startswith("train/loss_")]
            assert not parts or sum(parts) == pytest.approx(metrics["train/loss"], rel=1e-5)
            spent = metrics["time/data_s"] + metrics["time/train_s"] + metrics["time/eval_s"]
            shares.append(spent / metrics["time/epoch_s"])
        assert max(shares) <= 1.001, "nothing is counted twice"
        assert max(shares) > 0.5, "most of an epoch, unless the machine was busy with something else in every one"

    def test_images_are_counted_with_every_view_and_gradient_as_a_budget_counts_them(self) -> None:
        """Every method is here, with what changes its passes; a method that costs more than its kind is found."""
        query2label = {"model.name": "query2label", "model.hidden_dim": 16, "model.feedforward_dim": 16}
        settings: list[dict[str, Any]] = [{"method.name": name} for name in METHODS if name != "plc_lac"]
        settings += [
            {"method.name": "plc_lac", "method.queue_size": 16, **query2label},
            {"method.masked_pass_bn": "train"},
            {"method.rejection": "oracle"},
            {"method.view": "weak", "method.reg_weight": 0.0},
            {"method.name": "em_apl", "method.warmup_epochs": 1, "optim.batch_size": 48, "optim.drop_last": True},
            {"method.name": "crisp", "method.warmup_epochs": 2},
            {"method.name": "wan", "optim.average_decay": 0.9},
        ]
        for changes in settings:
            config = tiny_config({"loop.epochs": 2, **changes})
            metrics, expected = TrainingRun(config).train_epoch(), count_epoch_images(config, 64, 1)
            found = metrics["train/images_forward"], metrics["train/images_backward"]
            assert found == (expected.forward, expected.backward), changes

    def test_rejection_begins_after_the_warmup(self) -> None:
        run = TrainingRun(tiny_config({"method.warmup_epochs": 2}))
        rejected = [run.train_epoch()["train/rejected_frac"] for _ in range(4)]
        assert rejected[:2] == [0.0, 0.0]
        assert all(share > 0 for share in rejected[2:])

    def test_learning_rate_that_is_reported_was_used_and_ends_at_the_bottom(self) -> None:
        run = TrainingRun(tiny_config())
        rates = [run.train_epoch()["train/lr"] for _ in range(4)]
        assert rates[-1] == pytest.approx(3e-3 / 25 / 1e4)
        assert max(rates) < 3e-3

    @pytest.mark.parametrize(
        ("select_by", "metric"), [("clean-val", "val/mAP"), ("unbiased-risk", "val/estimated_accuracy")]
    )
    def test_best_is_the_best_epochs_weights_after_later_epochs(
        self, tmp_path: Path, select_by: str, metric: str
    ) -> None:
        # A learning rate at which later epochs do not improve.
        config = tiny_config(
            {"loop.select_epoch_by": select_by, "optim.lr": 0.3, "optim.schedule": "constant", "loop.epochs": 6}
        )
        run, values, weights, thresholds = TrainingRun(config, storage=tmp_path), [], [], []
        while not run.finished:
            values.append(run.train_epoch()[metric])
            weights.append({name: value.clone() for name, value in run.best_state()["model"].items()})
            thresholds.append(run.metrics["train/gap_threshold"])
            run.save()
        best = int(np.argmax(values))
        assert best + 1 < config.loop.epochs, "choose another learning rate: the test needs later epochs"
        assert run.best_epoch == best + 1
        run.load_best()
        loaded = run.best_state()["model"]
        assert all(torch.equal(value, weights[best][name]) for name, value in loaded.items())
        assert float(run.best_state()["method"]["gap_threshold"]) == thresholds[best] != thresholds[-1]
        assert evaluate_split(config, run.best_state(), "val")[metric] == pytest.approx(values[best])

    def test_last_epoch_counts_if_the_protocol_says_so(self, tmp_path: Path) -> None:
        run = TrainingRun(tiny_config({"loop.select_epoch_by": "last", "loop.epochs": 2}), storage=tmp_path)
        for epoch in (1, 2):
            run.train_epoch()
            run.save()
            assert run.is_best
            assert run.best_epoch == epoch
        assert [path.name for path in tmp_path.glob("best-*.pt")] == ["best-0002.pt"]

    def test_artifacts_are_of_the_weights_that_are_loaded(self, tmp_path: Path) -> None:
        run = train(tiny_config({"loop.epochs": 2}), tmp_path / "checkpoints")
        run.load_best()
        run.write_artifacts(tmp_path / "artifacts")
        table = pq.read_table(tmp_path / "artifacts" / "per_class_ap.parquet")
        best = evaluate_split(run.config, run.best_state(), "val")
        assert np.mean(table["ap"].to_pylist()) == pytest.approx(best["val/mAP"])
        assert np.mean(table["observed_ap"].to_pylist()) == pytest.approx(best["val/observed_mAP"])
        assert [path.name for path in (tmp_path / "artifacts" / "cam").iterdir()] == ["cam.png"]

    def test_no_storage_keeps_nothing_and_has_no_best_to_load(self) -> None:
        run = TrainingRun(tiny_config({"loop.epochs": 1}))
        run.train_epoch()
        run.save()
        with pytest.raises(CheckpointError, match="hold no complete weights of the best epoch, 1"):
            run.load_best()


def test_a_run_has_no_handle_on_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config({"loop.epochs": 1})
    shutil.copytree(cache_dir(), tmp_path / "cache" / "orchestrator")
    for path in (tmp_path / "cache").rglob("test.safetensors"):
        path.unlink()
    with_test = train(config)
    assert evaluate_test(config, with_test.best_state())["test/mAP"] > 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    without = train(config, tmp_path / "checkpoints")
    without.write_artifacts(tmp_path / "artifacts")
    assert fingerprint(without) == fingerprint(with_test)
    with pytest.raises(DatasetError, match=r"test.safetensors does not"):
        evaluate_test(config, without.best_state())


class TestNonFinite:
    @pytest.mark.parametrize("recipe", ["ignore, digits recipe", "ignore, as released", "wan"])
    def test_bad_step_is_named_and_changes_nothing(self, recipe: str, tmp_path: Path) -> None:
        config = tiny_config(RECIPES[recipe])
        whole = fingerprint(train(config))
        run = train(config, tmp_path, stop_after=1)
        metrics = dict(run.metrics)
        passes_a_step = {"ignore, digits recipe": 3, "ignore, as released": 3, "wan": 1}[recipe]
        before: dict[str, Tensor] = {}
        calls = [0]

        def poison(model: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
            if calls[0] == 2 * passes_a_step:
                before.update(_trained(run))
                calls[0] += 1
                return (torch.full_like(inputs[0], float("nan")),)
            calls[0] += 1
            return None

        handle = run._model.register_forward_pre_hook(poison)
        with pytest.raises(NonFiniteLossError, match="at epoch 2, step 3: ") as error:
            run.train_epoch()
        handle.remove()
        assert (error.value.epoch, error.value.step) == (2, 3)
        assert calls[0] == 3 * passes_a_step, "on a CPU no step is taken after it"
        assert not all(math.isfinite(value) for value in error.value.parts.values())
        assert before
        assert all(torch.equal(value, before[name]) for name, value in _trained(run).items())
        assert (run.epoch, run.metrics) == (1, metrics), "the epoch is not finished"
        assert fingerprint(train(config, tmp_path)) == whole, "what was saved is not spoiled"

    def test_loss_that_diverges_is_found(self) -> None:
        run = TrainingRun(
            tiny_config(
                {"optim.name": "sgd", "optim.lr": 10.0, "method.reg_weight": 100.0, "optim.schedule": "constant"}
            )
        )
        with pytest.raises(NonFiniteLossError) as error:
            _train_to_the_end(run)
        assert error.value.parts.keys() == {"spbc", "ignore", "reg"}


def _train_to_the_end(run: TrainingRun) -> None:
    while not run.finished:
        run.train_epoch()


def _trained(run: TrainingRun) -> dict[str, Tensor]:
    """Return copies of what a step may change: parameters, moments and method state.

    Running statistics are not among them, because the forward pass changes those.
    """
    named = {f"parameter {name}": value for name, value in run._model.named_parameters()}
    named |= {f"method {name}": value for name, value in run._method.state_dict().items()}
    return {name: value.detach().clone() for name, value in (named | _moments(run.state_dict())).items()}
