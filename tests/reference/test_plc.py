"""Compare PLC and PLC + LAC with their formulas, entry by entry, and the queue with a plain list."""

from __future__ import annotations

import copy
from math import exp, log

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.kit.scenes import random_batch
from tests.reference.plain import loss_of, sigmoid
from training.config.methods import PlcConfig, PlcLacConfig
from training.config.run import OptimConfig
from training.data.batches import Batch
from training.loop.optim import build_optimizer, set_own_decay
from training.losses import total_loss
from training.methods.base import Sizes
from training.methods.plc import EMPTY, Plc, PlcLac, pseudo_labels
from training.models.base import ModelOutput

NUM, NUM_CLASSES, DIM = 5, 4, 6


class TwoViews(nn.Module):
    """A network that returns fixed logits and embeddings for the weak view, the strong one, the weak one again, ..."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(2 * torch.randn(2, NUM, NUM_CLASSES, generator=generator))
        self.embeddings = nn.Parameter(torch.randn(2, NUM, NUM_CLASSES, DIM, generator=generator))
        self.calls = 0

    def forward(self, images: Tensor) -> ModelOutput:
        view = self.calls % 2
        self.calls += 1
        return ModelOutput(self.logits[view], self.logits[view][:, :, None, None], self.embeddings[view])


def batch_of(seed: int = 3) -> Batch:
    return random_batch(NUM, NUM_CLASSES, size=8, seed=seed, without_positive=1)


def test_pseudo_labels_and_where_they_are_known() -> None:
    logits = torch.tensor([[log(0.7 / 0.3), log(0.5 / 0.5), log(0.2 / 0.8), log(0.3 / 0.7)]])
    label, known = pseudo_labels(logits, torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 0.6)
    assert label.tolist() == [[True, False, False, True]]
    assert known.tolist() == [[True, False, True, True]]
    label, known = pseudo_labels(logits, torch.zeros(1, 4), 0.9)
    assert not label.any()
    assert not known.any()


def test_loss_of_the_first_stage_is_the_formula() -> None:
    batch, model = batch_of(), TwoViews()
    weak, strong = model.logits.detach().tolist()
    negative, consistency = 0.0, []
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            observed, p = float(batch.observed[row, column]), sigmoid(weak[row][column])
            negative += -log(p) if observed else -log(1 - p)
            q = p + observed
            if q >= 0.6 or q < 0.4:
                s = sigmoid(strong[row][column])
                consistency.append(-log(s) if q >= 0.6 else -log(1 - s))
    expected = negative / (NUM * NUM_CLASSES) + 0.8 * float(np.mean(consistency))
    method = Plc(PlcConfig(plc_weight=0.8), Sizes(NUM_CLASSES, NUM, 4))
    assert loss_of(method.step(model, batch, 1)) == pytest.approx(expected, rel=1e-5)


def test_gradient_of_each_part_goes_to_its_view_alone() -> None:
    batch, model = batch_of(), TwoViews()
    label, known = pseudo_labels(model.logits[0].detach(), batch.observed, 0.6)
    probs = model.logits.detach().sigmoid()
    method = Plc(PlcConfig(plc_weight=0.8), Sizes(NUM_CLASSES, NUM, 4))
    expected = {
        "plc": torch.stack(
            [torch.zeros_like(probs[0]), 0.8 * torch.where(known, probs[1] - label.float(), 0) / known.sum()]
        ),
        "assumed_negative": torch.stack([(probs[0] - batch.observed) / probs[0].numel(), torch.zeros_like(probs[0])]),
    }
    for name, gradient in expected.items():
        model.zero_grad()
        total_loss({name: method.step(model, batch, 1).parts[name]})[0].backward()
        assert model.logits.grad is not None
        torch.testing.assert_close(model.logits.grad, gradient, rtol=1e-5, atol=1e-7)
        assert gradient.any()


def test_assumed_negatives_are_cross_entropy_with_logits_however_far_from_zero() -> None:
    # Values at which 1e-5 inside the logarithm would change the gradient by 2 and 21 %, and cut it to 38 % for the
    # positive at -12.
    logits = [[3.0, 6.0, -12.0, 0.5]]
    observed = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    images = torch.zeros(1, 3, 8, 8)
    model = TwoViews()
    model.logits = nn.Parameter(torch.tensor([logits, logits]))
    method = Plc(PlcConfig(), Sizes(NUM_CLASSES, 1, 4))
    part = method.step(model, Batch(torch.arange(1), images, images, observed, observed), 1).parts["assumed_negative"]
    loss, _ = total_loss({"assumed_negative": part})
    loss.backward()
    plain = [log(1 + exp(3.0)), log(1 + exp(6.0)), log(1 + exp(12.0)), log(1 + exp(0.5))]
    assert float(loss.detach()) == pytest.approx(sum(plain) / 4, rel=1e-6)
    assert model.logits.grad is not None
    expected = [sigmoid(3.0) / 4, sigmoid(6.0) / 4, (sigmoid(-12.0) - 1) / 4, sigmoid(0.5) / 4]
    assert model.logits.grad[0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def lac_of(queue_size: int = 64, **settings: float) -> PlcLac:
    torch.manual_seed(2)
    config = PlcLacConfig.model_validate(
        {"first_stage_epochs": 1, "second_threshold": 0.8, "projection_dim": 3, "queue_size": queue_size, **settings}
    )
    return PlcLac(config, Sizes(NUM_CLASSES, NUM, 4, embedding_dim=DIM))


def chosen_entries(model: TwoViews, batch: Batch, threshold: float) -> list[tuple[int, int]]:
    score = model.logits[0].detach().sigmoid() + batch.observed
    return [(int(row), int(column)) for row, column in (score >= threshold).nonzero()]


def projected(method: PlcLac, model: TwoViews) -> Tensor:
    features: Tensor = method.projector(model.embeddings.detach()).detach()
    unit: Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit


def plain_contrast(entries: list[tuple[Tensor, int]], temperature: float) -> Tensor:
    """Return LAC of a queue's entries (two unit vectors (2, d), class), by its formula and in double precision."""
    vectors = [
        (view.double(), label, 2 * number + place)
        for number, (views, label) in enumerate(entries)
        for place, view in enumerate(views)
    ]
    losses = []
    for anchor, label, own in vectors:
        others = [(anchor @ key / temperature, kind) for key, kind, name in vectors if name != own]
        same = [similarity for similarity, kind in others if kind == label]
        total = sum((similarity.exp() for similarity, _ in others), torch.zeros((), dtype=torch.float64))
        losses.append(total.log() - torch.stack(same).mean())
    return torch.stack(losses).mean()


def test_contrast_of_the_second_stage_is_the_formula_over_the_whole_queue() -> None:
    """The loss of each step, and its gradient by embeddings and projector, with entries of up to three steps."""
    method = lac_of(queue_size=24, lac_weight=0.6, temperature=0.5)
    projector = copy.deepcopy(method.projector).double()
    queue: list[tuple[Tensor, int]] = []
    for step in range(4):
        batch, model = batch_of(seed=step), TwoViews(seed=step)
        embeddings = model.embeddings.detach().double().requires_grad_()
        features = normalize(projector(embeddings), dim=-1)
        # The batch's own entries have gradient, as anchors and as keys; those of earlier steps have none.
        queue = [(views.detach(), label) for views, label in queue]
        queue += [(features[:, r, c], c) for r, c in chosen_entries(model, batch, 0.8)]
        queue = queue[-24:]
        expected = 0.6 * plain_contrast(queue, 0.5)
        own = [embeddings, *projector.parameters()]
        slopes = torch.autograd.grad(expected, own)

        method.zero_grad()
        output = method.step(model, batch, 2)
        loss, _ = total_loss({"lac": output.parts["lac"]})
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        for parameter, slope in zip([model.embeddings, *method.projector.parameters()], slopes, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad.double(), slope, rtol=1e-4, atol=1e-6)
            assert slope.any()
        method.apply_updates(output, torch.tensor(True))
    assert int((method.key_classes != EMPTY).sum()) == 24, "the queue is full, or older entries were never replaced"


def test_queue_is_a_ring_that_keeps_the_newest() -> None:
    method = lac_of(queue_size=7)
    plain: list[tuple[int, list[float]]] = []
    for step in range(4):
        batch, model = batch_of(seed=step), TwoViews(seed=step)
        features = projected(method, model)
        plain += [(c, features[0, r, c].tolist()) for r, c in chosen_entries(model, batch, 0.8)]
        method.apply_updates(method.step(model, batch, 2), torch.tensor(True))
    assert len(plain) > 14
    ring = [(int(label), keys[0].tolist()) for label, keys in zip(method.key_classes, method.keys, strict=True)]
    start = int(method.next_key)
    assert start == len(plain) % 7
    for (label, key), (expected_label, expected) in zip(ring[start:] + ring[:start], plain[-7:], strict=True):
        assert label == expected_label
        assert key == pytest.approx(expected, abs=1e-6)


def test_one_batch_with_more_than_the_queue_holds() -> None:
    method = lac_of(queue_size=2)
    batch, model = batch_of(), TwoViews()
    assert len(chosen_entries(model, batch, 0.8)) > 2
    output = method.step(model, batch, 2)
    assert torch.isfinite(total_loss(output.parts)[0])
    method.apply_updates(output, torch.tensor(True))
    assert method.key_classes.tolist() != [EMPTY, EMPTY]


def test_first_stage_contrasts_nothing_and_keeps_nothing() -> None:
    method, batch, model = lac_of(), batch_of(), TwoViews()
    output = method.step(model, batch, 1)
    assert float(total_loss(output.parts)[1]["lac"]) == 0
    assert not output.updates
    total_loss(output.parts)[0].backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in method.parameters())


def test_thresholds_of_the_stages() -> None:
    method = lac_of()
    assert [method._threshold(epoch) for epoch in (1, 2, 3)] == [0.6, 0.8, 0.8]


def test_stored_keys_carry_no_gradient_and_only_chosen_entries_receive_some() -> None:
    method, batch, model = lac_of(), batch_of(), TwoViews()
    output = method.step(model, batch, 2)
    assert not output.updates["keys"].requires_grad
    total_loss({"lac": output.parts["lac"]})[0].backward()
    assert model.embeddings.grad is not None
    chosen = chosen_entries(model, batch, 0.8)
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            assert ((row, column) in chosen) == bool(model.embeddings.grad[:, row, column].any())


def test_projector_takes_weight_decay_from_the_second_stage_on() -> None:
    method, model = lac_of(), TwoViews()
    config = OptimConfig(name="adam", lr=1e-2, weight_decay=0.5)
    optimizer = build_optimizer(config, model, method)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    for epoch, decay in ((1, 0.0), (2, 0.5), (3, 0.5)):
        set_own_decay(config, optimizer, method, epoch)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5, decay]
        if epoch == 1:  # no gradient yet: with decay, Adam would take whole steps towards 0
            total_loss(method.step(model, batch_of(), epoch).parts)[0].backward()
            optimizer.step()
            assert all(map(torch.equal, before, method.parameters()))
