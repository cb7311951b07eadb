"""Test what a run gives a method besides batches: scores of the train split, rows of state, trained parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.kit.fingerprint import fingerprint, train
from tests.kit.scenes import prepare_tiny, tiny_config
from training.data.batches import Batch
from training.data.registry import load_split
from training.errors import ConfigError
from training.loop.run import TrainingRun
from training.losses import assumed_negative_entries, mean_part
from training.methods.base import Method, Sizes, StepOutput


class Labelling(Method):
    """AN on soft labels set from the scores of each odd epoch and shifted by a trained vector; counts examples."""

    lr_multiplier = 5.0
    labels: Tensor
    num_seen: Tensor

    def __init__(self, config: object, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("labels", torch.zeros(sizes.num_examples, sizes.num_classes))
        self.register_buffer("num_seen", torch.zeros(sizes.num_examples, dtype=torch.long))
        self.shift = nn.Parameter(torch.zeros(sizes.num_classes))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        logits = model(batch.weak).logits.float() + self.shift
        soft = (logits.sigmoid() - self.labels[batch.index]).square()
        parts = {"entries": mean_part(assumed_negative_entries(logits, batch.observed)), "soft": mean_part(soft, 0.1)}
        return StepOutput(parts, row_updates={"num_seen": (batch.index, self.num_seen[batch.index] + 1)})

    def needs_train_scores(self, epoch: int) -> bool:
        return epoch % 2 == 1

    def end_epoch(
        self, epoch: int, logits: Tensor, observed: Tensor, negative: Tensor | None = None
    ) -> dict[str, float]:
        self.labels.copy_(torch.where(observed, 1.0, logits.sigmoid()))
        return {"train/soft_positive_frac": float((self.labels > 0.5).float().mean())}


class Embedding(Labelling):
    """A method that needs embeddings, which the model does not return."""

    needs_embeddings = True


@pytest.fixture(scope="module", autouse=True)
def _scenes(_isolated_environment: None) -> None:
    prepare_tiny()


@pytest.fixture(autouse=True)
def _labelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.run.build_method", Labelling)


CONFIG: dict[str, Any] = {"method.name": "assumed_negative", "loop.epochs": 4}


def method_of(run: TrainingRun) -> Labelling:
    assert isinstance(run._method, Labelling)
    return run._method


def test_a_method_knows_the_sizes_of_the_run() -> None:
    assert method_of(TrainingRun(tiny_config(CONFIG))).sizes == Sizes(num_classes=10, num_examples=64, num_epochs=4)


def test_scores_of_the_train_split_come_after_the_epochs_that_ask_for_them() -> None:
    config = tiny_config(CONFIG)
    run = TrainingRun(config)
    first = run.train_epoch()
    observed = load_split(config.data, "train").observed
    labels = method_of(run).labels.clone()
    assert (labels[observed] == 1).all()
    assert ((labels[~observed] > 0) & (labels[~observed] < 1)).all()
    assert first["train/soft_positive_frac"] >= float(observed.float().mean())
    assert "train/soft_positive_frac" not in run.train_epoch()
    assert torch.equal(method_of(run).labels, labels)


def test_every_example_has_its_own_row_and_the_methods_parameters_are_trained() -> None:
    run = train(tiny_config(CONFIG))
    assert (method_of(run).num_seen == 4).all()
    assert method_of(run).shift.detach().abs().min() > 0


def test_stopped_after_any_epoch_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = tiny_config(CONFIG)
    whole = fingerprint(train(config))
    for stop in range(1, 4):
        train(config, tmp_path / str(stop), stop_after=stop)
        assert fingerprint(train(config, tmp_path / str(stop))) == whole


def test_model_without_embeddings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.run.build_method", Embedding)
    rule = (
        "Method assumed_negative needs a model with an embedding per class, which model.name=resnet_cam does not have. "
        "Use model.name=query2label"
    )
    with pytest.raises(ConfigError, match=rule):
        TrainingRun(tiny_config(CONFIG))
