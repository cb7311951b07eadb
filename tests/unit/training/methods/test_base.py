"""Test the base of all methods: state that changes by step, example and epoch, and parameters of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.kit.scenes import random_batch
from training.config.run import OptimConfig
from training.data.batches import Batch
from training.loop.optim import build_optimizer
from training.losses import mean_part
from training.methods.base import Method, Sizes, StepOutput

YES, NO = torch.tensor(True), torch.tensor(False)


class Remembering(Method):
    """A method that keeps the last labels of every example, and has a parameter of its own."""

    lr_multiplier = 10.0
    labels: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(sizes.num_examples, sizes.num_classes))
        self.register_buffer("steps", torch.zeros(()))
        self.estimate = nn.Parameter(torch.ones(sizes.num_classes))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        steps = self.get_buffer("steps") + 1
        return StepOutput(
            {"entries": mean_part(self.estimate)},
            {"steps": steps},
            row_updates={"labels": (batch.index, batch.observed)},
        )


@pytest.fixture
def method() -> Remembering:
    return Remembering(Sizes(num_classes=3, num_examples=6, num_epochs=2))


def batch_of(index: list[int]) -> Batch:
    batch = random_batch(len(index), num_classes=3, size=8)
    return Batch(torch.tensor(index, dtype=torch.long), batch.weak, batch.strong, torch.ones(len(index), 3), batch.true)


def test_rows_of_the_batch_change_and_no_others(method: Remembering) -> None:
    method.apply_updates(method.step(nn.Identity(), batch_of([4, 1]), 1), YES)
    assert method.labels.sum(1).tolist() == [0, 3, 0, 0, 3, 0]
    assert method.get_buffer("steps") == 1


def test_nothing_changes_after_a_loss_that_is_not_finite(method: Remembering) -> None:
    method.apply_updates(method.step(nn.Identity(), batch_of([4, 1]), 1), NO)
    assert not method.labels.any()
    assert method.get_buffer("steps") == 0


def test_rows_that_are_no_numbers_stay_out(method: Remembering) -> None:
    output = StepOutput({}, row_updates={"labels": (torch.tensor([2]), torch.full((1, 3), float("nan")))})
    method.apply_updates(output, NO)
    assert not method.labels.any()


def test_empty_batch_changes_no_row(method: Remembering) -> None:
    method.apply_updates(method.step(nn.Identity(), batch_of([]), 1), YES)
    assert not method.labels.any()


def test_a_method_asks_for_no_scores_unless_it_says_so(method: Remembering) -> None:
    assert not method.needs_train_scores(1)
    with pytest.raises(NotImplementedError, match="Remembering asks for train scores"):
        method.end_epoch(1, torch.zeros(6, 3), torch.zeros(6, 3, dtype=torch.bool))


def test_own_parameters_have_their_own_rate_and_no_decay(method: Remembering) -> None:
    model = nn.ModuleDict({"trunk": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    config = OptimConfig(lr=1e-3, weight_decay=0.1, head_lr_multiplier=2)
    groups = build_optimizer(config, model, method).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 2e-3, 1e-2])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert groups[2]["params"][0] is method.estimate


def test_method_without_parameters_adds_no_group(method: Remembering) -> None:
    del method.estimate
    model = nn.ModuleDict({"trunk": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert len(build_optimizer(OptimConfig(), model, method).param_groups) == 2
