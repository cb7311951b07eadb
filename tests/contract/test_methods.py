"""Test what every method must satisfy, whatever its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.kit.clip_scores import drawn_scores, make_scores
from tests.kit.scenes import prepare_tiny, random_batch, thin_trunks, tiny_config
from training.data.batches import Batch
from training.data.views import draw_strong
from training.loop.guard import FiniteGuard
from training.loop.optim import build_optimizer, guarded_step
from training.loop.run import TrainingRun
from training.losses import total_loss
from training.methods.base import Method, Sizes
from training.methods.ignore import Ignore
from training.methods.registry import METHODS, build_method
from training.models.base import ModelOutput
from training.models.registry import build_model

CPU = torch.device("cpu")
LAST_LAYER = ("head.weight", "head.bias")
SIZES = Sizes(num_classes=10, num_examples=8, num_epochs=4, embedding_dim=16)
VARIANTS: dict[str, dict[str, Any]] = {name: {"method.name": name} for name in METHODS} | {
    "ignore, no rejection": {"method.rejection": "none"},
    "ignore, oracle": {"method.rejection": "oracle"},
    "ignore, as released": {"method.masked_pass_bn": "train", "method.cam_normalisation": "batch"},
    "ignore, no update": {"method.masked_pass_bn": "batch_stats_no_update"},
    "ignore, bias corrected": {"method.correct_gap_bias": True, "method.correct_average_bias": True},
    "ignore, gap alone": {"method.use_average_test": False, "method.warmup_epochs": 0},
    "ignore, weak view": {"method.view": "weak"},
    "ignore, weak view alone": {"method.view": "weak", "method.reg_weight": 0.0},
    "ignore, no SPBC": {"method.spbc_weight": 0.0},
    "ignore, no regularisation": {"method.reg_weight": 0.0},
    "ignore, Query2Label": {
        "model.name": "query2label",
        "model.hidden_dim": 16,
        "model.feedforward_dim": 16,
        "model.dropout": 0.0,
    },
    "LL-Ct": {"method.name": "large_loss", "method.scheme": "LL-Ct", "method.delta_rel_percent": 10.0},
    "LL-Cp": {"method.name": "large_loss", "method.scheme": "LL-Cp", "method.delta_rel_percent": 10.0},
    "BoostLU + LL-R": {"method.name": "large_loss", "model.cam_boost": 5.0},
    "plc_lac": {
        "method.name": "plc_lac",
        "method.first_stage_epochs": 1,
        "method.queue_size": 16,
        "model.name": "query2label",
        "model.hidden_dim": 16,
        "model.feedforward_dim": 16,
        "model.dropout": 0.0,
    },
    "em_apl, labelled": {"method.name": "em_apl", "method.warmup_epochs": 1},
    "splc, low threshold": {"method.name": "splc", "method.positive_threshold": 0.2, "method.warmup_epochs": 0},
}


class Trainer:
    """A model, a method and an optimiser, which take steps as in a run."""

    def __init__(self, changes: dict[str, Any]) -> None:
        config = tiny_config({"method.name": "ignore", **changes})
        torch.manual_seed(0)
        self.model, _ = build_model(config.model, 10, CPU)
        self.model.train()
        self.method: Method = build_method(config.method, SIZES)
        observed = random_batch(8).observed > 0
        self.method.start(observed)
        if self.method.clip_model is not None:
            self.method.take_scores(make_scores(8, 10), observed)
        if self.method.needs_train_scores(1):
            self.method.end_epoch(1, torch.randn(8, 10, generator=torch.Generator().manual_seed(2)), observed)
        self.optimizer = build_optimizer(config.optim, self.model, self.method)

    def step(self, batch: Batch, epoch: int = 2) -> tuple[Tensor, dict[str, float]]:
        """Take a step; return whether it was finite, and its sums for the epoch."""
        output = self.method.step(self.model, batch, epoch)
        loss, values = total_loss(output.parts)
        finite = FiniteGuard(epoch, CPU).observe(1, values)
        self.optimizer.zero_grad()
        loss.backward()
        guarded_step(self.optimizer, finite)
        self.method.apply_updates(output, finite)
        return finite, {name: float(value) for name, value in output.sums.items()}

    def state(self) -> dict[str, Tensor]:
        """Return copies of all parameters, moments and method state."""
        named = {f"parameter {name}": value for name, value in self.model.named_parameters()}
        named |= {f"method {name}": value for name, value in self.method.state_dict().items()}
        moments = self.optimizer.state_dict()["state"]
        named |= {
            f"moment {index} {name}": value for index, values in moments.items() for name, value in values.items()
        }
        return {name: value.detach().clone() for name, value in named.items()}


@pytest.fixture(scope="module", autouse=True)
def _thin(_isolated_environment: None) -> Iterator[None]:
    prepare_tiny()  # outside, as the trunk that it trains is not thin
    with thin_trunks(), drawn_scores():
        yield


@pytest.fixture(params=VARIANTS)
def trainer(request: pytest.FixtureRequest) -> Trainer:
    """Return a trainer for each method and variant."""
    return Trainer(VARIANTS[request.param])


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def poisoned(batch: Batch, value: float) -> Batch:
    """Return a batch with one NaN pixel."""
    weak = batch.weak.clone()
    weak[1, 0, 5, 5] = value
    return Batch(batch.index, weak, batch.strong, batch.observed, batch.true)


def rows(batch: Batch, stop: int) -> Batch:
    assert batch.strong is not None
    assert batch.true is not None
    return Batch(batch.index[:stop], batch.weak[:stop], batch.strong[:stop], batch.observed[:stop], batch.true[:stop])


class TestMethod:
    def test_finite_gradients_reach_every_trainable_parameter(self, trainer: Trainer) -> None:
        output = trainer.method.step(trainer.model, random_batch(8), epoch=2)
        total_loss(output.parts)[0].backward()
        for name, parameter in trainer.model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_finite_gradients_reach_every_parameter_of_its_own(self, trainer: Trainer) -> None:
        total_loss(trainer.method.step(trainer.model, random_batch(8), epoch=2).parts)[0].backward()
        for name, parameter in trainer.method.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_model_in_half_precision_gives_finite_losses_in_single(self, trainer: Trainer) -> None:
        batch = random_batch(8)
        whole = total_loss(trainer.method.step(trainer.model, batch, epoch=2).parts)[0].detach()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = trainer.method.step(trainer.model, batch, epoch=2)
        loss, values = total_loss(output.parts)
        loss.backward()
        assert {value.dtype for value in values.values()} == {torch.float32}
        assert all(
            torch.isfinite(parameter.grad).all()
            for parameter in trainer.model.parameters()
            if parameter.grad is not None
        )
        assert all(value.dtype != torch.bfloat16 for value in output.updates.values())
        assert float(loss.detach()) == pytest.approx(float(whole), abs=0.1)

    @pytest.mark.parametrize("scale", [1e3, 1e8])
    def test_saturated_probabilities_give_finite_losses_and_gradients(self, trainer: Trainer, scale: float) -> None:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if name in LAST_LAYER:
                    parameter.mul_(scale)
        output = trainer.method.step(trainer.model, random_batch(8), epoch=2)
        loss, values = total_loss(output.parts)
        assert all(torch.isfinite(value) for value in values.values()), values
        loss.backward()
        for name, parameter in [*trainer.model.named_parameters(), *trainer.method.named_parameters()]:
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name

    def test_end_of_an_epoch_changes_the_state_alike_on_every_rank(self, trainer: Trainer) -> None:
        epochs = [epoch for epoch in range(1, SIZES.num_epochs + 1) if trainer.method.needs_train_scores(epoch)]
        if not epochs:
            return
        assert max(epochs) < SIZES.num_epochs, "after the last epoch there is nothing to change"
        before, first_label_absent = trainer.state(), random_batch(8, seed=3).observed > 0
        first_label_absent[:, 0] = False
        logits = 3 * torch.randn(8, 10, generator=torch.Generator().manual_seed(5))
        ends = []
        for _ in range(2):
            trainer.method.load_state_dict(
                {name.removeprefix("method "): value for name, value in before.items() if "method" in name}
            )
            metrics = trainer.method.end_epoch(epochs[-1], logits, first_label_absent)
            self.assert_finite(trainer, {})
            assert all(name.startswith("train/") and math.isfinite(value) for name, value in metrics.items())
            ends.append(trainer.state())
        assert same(*ends)
        assert not same(before, ends[0])

    def test_a_step_does_not_change_the_methods_state_before_its_updates_are_applied(self, trainer: Trainer) -> None:
        trainer.step(random_batch(8))
        before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
        trainer.method.step(trainer.model, random_batch(8, seed=1), epoch=2)
        assert same(before, trainer.method.state_dict())

    def test_state_goes_round_and_training_goes_on_as_before(
        self, trainer: Trainer, request: pytest.FixtureRequest
    ) -> None:
        for seed in range(2):
            trainer.step(random_batch(8, seed=seed))
        other = Trainer(VARIANTS[request.node.callspec.params["trainer"]])
        other.model.load_state_dict(trainer.model.state_dict())
        other.optimizer.load_state_dict(_copied(trainer.optimizer.state_dict()))
        other.method.load_state_dict(trainer.method.state_dict())
        assert same(trainer.state(), other.state())
        for one in (trainer, other):
            one.step(random_batch(8, seed=7))
        assert same(trainer.state(), other.state())

    @pytest.mark.parametrize("epoch", [1, 2])
    def test_batch_without_any_positive(self, trainer: Trainer, epoch: int) -> None:
        trainer.step(random_batch(8))
        finite, sums = trainer.step(random_batch(8, seed=1, without_positive=8), epoch)
        assert finite
        self.assert_finite(trainer, sums)

    def test_batch_of_one_example(self, trainer: Trainer) -> None:
        for without_positive in (0, 1):
            finite, sums = trainer.step(random_batch(1, without_positive=without_positive))
            assert finite
            self.assert_finite(trainer, sums)

    def test_no_row_on_this_rank(self, trainer: Trainer) -> None:
        # Left out, because its BatchNorm counts the other ranks' rows, and a single process has no other rows.
        trainer.model.eval()
        output = trainer.method.step(trainer.model, rows(random_batch(4), 0), epoch=2)
        for part in output.parts.values():
            assert float(part.count) == 0
            assert float(part.numerator.detach()) == 0
        total_loss(output.parts)[0].backward()
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trainer.model.parameters())
        assert all(float(value) == 0 for value in output.sums.values())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_input_that_is_no_number_changes_neither_state_nor_weights(self, trainer: Trainer, value: float) -> None:
        trainer.step(random_batch(8))
        before = trainer.state()
        finite, _ = trainer.step(poisoned(random_batch(8, seed=1), value))
        assert not finite
        assert same(before, trainer.state())

    def test_only_the_methods_that_say_so_read_true_labels(self, trainer: Trainer) -> None:
        batch = random_batch(8)
        without = Batch(batch.index, batch.weak, batch.strong, batch.observed, None)
        if trainer.method.needs_true_labels:
            with pytest.raises(AssertionError):
                trainer.method.step(trainer.model, without, epoch=2)
            return
        values = []
        for one in (batch, without):
            trainer.model.load_state_dict(self.start(trainer.model))
            values.append(total_loss(trainer.method.step(trainer.model, one, epoch=2).parts)[0].detach())
        assert torch.equal(*values)

    def test_only_the_methods_that_say_so_read_the_strong_view(self, trainer: Trainer) -> None:
        batch = random_batch(8)
        if not trainer.method.needs_strong_view:
            trainer.method.step(
                trainer.model, Batch(batch.index, batch.weak, None, batch.observed, batch.true), epoch=2
            )
            return
        assert batch.strong is not None
        noise = draw_strong(8, 40, 1.0, torch.Generator().manual_seed(0)).noise / 255
        other = Batch(batch.index, batch.weak, batch.strong + noise, batch.observed, batch.true)
        losses = [
            total_loss(trainer.method.step(trainer.model, one, epoch=2).parts)[0].detach() for one in (batch, other)
        ]
        assert losses[0] != losses[1]

    def test_without_a_known_negative_nothing_changes(self, trainer: Trainer) -> None:
        batch = random_batch(8)
        losses = []
        for negative in (None, torch.zeros(8, 10, dtype=torch.bool)):
            trainer.model.load_state_dict(self.start(trainer.model))
            output = trainer.method.step(trainer.model, replace(batch, negative=negative), epoch=2)
            losses.append(total_loss(output.parts)[0].detach())
        assert torch.equal(*losses)

    def test_known_negative_is_pushed_down_and_never_doubted(self, trainer: Trainer) -> None:
        """Where every label is known, nothing is rejected, corrected or pseudo-labelled, however high its score."""
        if trainer.method.needs_true_labels and not isinstance(trainer.method, Ignore):
            return  # it is told all labels that it learns from
        batch = random_batch(8)
        negative = batch.observed == 0
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if name.endswith("head.bias"):
                    parameter.fill_(3.0)
        trainer.method.start(batch.observed > 0, negative)
        before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
        if trainer.method.needs_train_scores(1):
            trainer.method.end_epoch(1, 3 * torch.ones(8, 10), batch.observed > 0, negative)
        for epoch in (1, 2, 3):
            seen = _Seen(trainer.model)
            output = trainer.method.step(seen, replace(batch, negative=negative, true=torch.ones(8, 10)), epoch)
            total_loss(output.parts)[0].backward()
            push = torch.stack([each.grad for each in seen.logits if each.grad is not None]).sum(0)
            # A fifth of what AN would push by: the margin is for weights and powers, not for the sign.
            assert (push[negative] > 0.2 * 0.9 / 80).all(), push[negative].min()
            assert output.sums.get("rejected", 0) == 0
            assert output.sums.get("unobserved", 0) == 0
            trainer.method.apply_updates(output, torch.tensor(True))
        for name in before.keys() & {"corrected", "pseudo_labels"}:
            assert torch.equal(trainer.method.state_dict()[name], before[name])

    def test_metrics_of_an_epoch_are_finite(self, trainer: Trainer) -> None:
        totals: dict[str, float] = {}
        for seed in range(3):
            _, sums = trainer.step(random_batch(8, seed=seed))
            totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
        self.assert_finite(trainer, totals)
        self.assert_finite(trainer, dict.fromkeys(totals, 0.0))

    def assert_finite(self, trainer: Trainer, sums: dict[str, float]) -> None:
        for name, value in trainer.method.epoch_metrics(sums).items():
            assert name.startswith("train/")
            assert torch.isfinite(torch.tensor(value)), name
        for name, state in trainer.state().items():
            assert torch.isfinite(state.float()).all(), name

    def start(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a fixed state of a model."""
        return {
            name: torch.full_like(value, 0.5) if value.is_floating_point() else value
            for name, value in model.state_dict().items()
        }


class _Seen(nn.Module):
    """A model that keeps the logits of each of its passes, with their gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.logits = model, list[Tensor]()

    def forward(self, images: Tensor) -> ModelOutput:
        output: ModelOutput = self.model(images)
        if output.logits.requires_grad:
            output.logits.retain_grad()
        self.logits.append(output.logits)
        return output


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    import copy

    return copy.deepcopy(state)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_epochs_of_digit_scenes(name: str) -> None:
    # A constant rate, because at the top of the one-cycle schedule most losses rise on so few scenes.
    settings = {"loop.epochs": 2, "optim.batch_size": 8, "optim.lr": 1e-3, "optim.schedule": "constant"}
    changes = settings | VARIANTS[name]
    run = TrainingRun(tiny_config(changes | {"loop.epochs": 4}))
    if changes.get("method.name") in ("crisp", "mime", "plc_lac"):
        run.train_epoch()  # its loss differs from those of later epochs
        run.train_epoch()  # the first epoch with the later loss
    first, last = run.train_epoch(), run.train_epoch()
    assert all(math.isfinite(value) for value in last.values())
    if name != "em_apl, labelled":  # its loss covers other entries after every round
        assert last["train/loss"] < first["train/loss"]
