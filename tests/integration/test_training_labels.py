"""Test ``TrainingRun`` on scenes that lack labels: no true ones, no positives in a batch or a class, none at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.kit.scenes import RECIPES, prepare_tiny, thin_trunks, tiny_config
from training.data.registry import load_split
from training.data.split import SplitData
from training.errors import ConfigError
from training.loop.run import TrainingRun


@pytest.fixture(scope="module", autouse=True)
def _scenes(_isolated_environment: None) -> None:
    prepare_tiny()


class TestLabels:
    @pytest.fixture(autouse=True)
    def _thin(self) -> Iterator[None]:
        with thin_trunks():
            yield

    @pytest.fixture
    def change(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[SplitData], SplitData]], None]:
        """Return a function that makes runs see other labels than those of the scenes."""

        def change(edit: Callable[[SplitData], SplitData]) -> None:
            monkeypatch.setattr("training.loop.run.load_split", lambda config, split: edit(load_split(config, split)))

        return change

    def test_observed_labels_alone(self, change: Callable[..., None], tmp_path: Path) -> None:
        change(lambda split: replace(split, true=None, boxes=None))
        run = TrainingRun(
            tiny_config({"loop.select_epoch_by": "observed-val", "loop.epochs": 2}), storage=tmp_path / "checkpoints"
        )
        assert run.identity["true_labels"] == "not available"
        while not run.finished:
            metrics = run.train_epoch()
            run.save()
        assert {name.split("_")[0] for name in metrics if name.startswith("val/")} == {
            "val/covering",
            "val/estimated",
            "val/observed",
        }
        assert not [name for name in metrics if "precision" in name or "recall" in name]
        assert run.best_epoch is not None
        run.write_artifacts(tmp_path)
        assert pq.read_table(tmp_path / "per_class_ap.parquet")["ap"].null_count == 10

    @pytest.mark.parametrize("changes", [{"method.name": "full_labels"}, {"method.rejection": "oracle"}])
    def test_methods_that_need_true_labels_say_so_before_training(
        self, change: Callable[..., None], changes: dict[str, Any]
    ) -> None:
        change(lambda split: replace(split, true=None))
        with pytest.raises(ConfigError, match="needs true labels, but digits has only observed ones"):
            TrainingRun(tiny_config({"loop.select_epoch_by": "last"} | changes))

    def test_clean_validation_needs_true_labels(self, change: Callable[..., None]) -> None:
        change(lambda split: replace(split, true=None))
        with pytest.raises(
            ConfigError, match="select_epoch_by=clean-val needs true validation labels.*Use observed-val"
        ):
            TrainingRun(tiny_config())

    @pytest.mark.parametrize(
        "changes", [*RECIPES.values(), {"method.rejection": "oracle"}, {"method.name": "em"}], ids=str
    )
    def test_images_batches_and_splits_without_positives(
        self, change: Callable[..., None], changes: dict[str, Any]
    ) -> None:
        def unlabel(split: SplitData) -> SplitData:
            observed = split.observed.clone()
            observed[: len(observed) // 2] = False  # with batches of 4, some batches have no positive at all
            observed[:, 3] = False
            true = split.true & (torch.arange(10) != 7) if split.true is not None else None
            return replace(split, observed=observed, true=true)

        change(unlabel)
        run = TrainingRun(tiny_config({"loop.epochs": 2, "optim.batch_size": 2} | changes))
        while not run.finished:
            metrics = run.train_epoch()
            assert all(math.isfinite(value) for value in metrics.values())

    def test_no_positive_at_all(self, change: Callable[..., None], tmp_path: Path) -> None:
        change(lambda split: replace(split, observed=torch.zeros_like(split.observed)))
        run = TrainingRun(tiny_config({"loop.epochs": 2, "method.warmup_epochs": 0}))
        while not run.finished:
            metrics = run.train_epoch()
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["train/gap_threshold"] == 0
        assert metrics["train/loss_spbc"] == 0
        assert "train/mask_kept_frac" not in metrics
        run.write_artifacts(tmp_path)


def test_identity_says_what_a_result_depends_on() -> None:
    identities = [
        TrainingRun(tiny_config(changes)).identity
        for changes in ({}, {"loop.seed": 4}, {"model.weights": "none"}, {"data.draw_seed": 3})
    ]
    assert identities[0] == identities[1] == identities[3]
    assert identities[0]["weights_hash"] != identities[2]["weights_hash"] == "none"
    assert identities[0]["true_labels"] == "available"
    assert len(identities[0]["data_hash"]) == 64
