"""Compare PLC and PLC + LAC with their formulas, entry by entry, and the queue with a plain list."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.kit.scenes import random_batch
from tests.reference.plain import loss_of, nl, sigmoid
from training.config.methods import PlcConfig, PlcLacConfig
from training.data.batches import Batch
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
            negative += nl(p) if observed else nl(1 - p)
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
        # Equal except for the eps in the logarithms.
        "assumed_negative": torch.stack([(probs[0] - batch.observed) / probs[0].numel(), torch.zeros_like(probs[0])]),
    }
    for name, gradient in expected.items():
        model.zero_grad()
        total_loss({name: method.step(model, batch, 1).parts[name]})[0].backward()
        assert model.logits.grad is not None
        torch.testing.assert_close(model.logits.grad, gradient, rtol=1e-4, atol=1e-4)
        assert gradient.any()


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


def plain_contrast(
    anchors: list[tuple[np.ndarray, int, int]], keys: list[tuple[np.ndarray, int, int]], temperature: float
) -> float:
    """Return the contrast of anchors and keys (vector, class, name); keys with the anchor's own name do not count."""
    losses = []
    for vector, label, name in anchors:
        others = [
            (exp(float(vector @ key) / temperature), float(vector @ key) / temperature, kind)
            for key, kind, own in keys
            if own != name
        ]
        same = [similarity for _, similarity, kind in others if kind == label]
        if same:
            losses.append(log(sum(power for power, _, _ in others)) - sum(same) / len(same))
    return sum(losses) / len(losses)


def test_contrast_of_the_second_stage_is_the_formula_over_batch_and_queue() -> None:
    method = lac_of(lac_weight=0.6, temperature=0.5)
    keys: list[tuple[np.ndarray, int, int]] = []
    for step in range(3):
        batch, model = batch_of(seed=step), TwoViews(seed=step)
        features = projected(method, model).numpy()
        entries = chosen_entries(model, batch, 0.8)
        anchors = [
            (features[view, r, c], c, 10000 * step + 100 * r + 10 * c + view) for r, c in entries for view in range(2)
        ]
        keys += anchors
        output = method.step(model, batch, 2)
        _, values = total_loss(output.parts)
        assert float(values["lac"]) == pytest.approx(0.6 * plain_contrast(anchors, keys, 0.5), rel=1e-4)
        method.apply_updates(output, torch.tensor(True))
    assert int(method.next_key) == len(keys) // 2
    assert int((method.key_classes != EMPTY).sum()) == len(keys) // 2


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


def test_keys_carry_no_gradient() -> None:
    method, batch, model = lac_of(), batch_of(), TwoViews()
    output = method.step(model, batch, 2)
    assert not output.updates["keys"].requires_grad
    total_loss({"lac": output.parts["lac"]})[0].backward()
    assert model.embeddings.grad is not None
    chosen = chosen_entries(model, batch, 0.8)
    for row in range(NUM):
        for column in range(NUM_CLASSES):
            assert ((row, column) in chosen) == bool(model.embeddings.grad[:, row, column].any())
