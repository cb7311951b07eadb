"""Compare MIME with its formulas: the entries left open class by class, the loss entry by entry, the latent vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.reference.plain import FixedLogits, gradient_of, loss_of, make_batch, nl, sigmoid, slope_of
from training.config.methods import MimeConfig
from training.config.run import ModelConfig
from training.methods.base import Sizes
from training.methods.mime import Mime
from training.models.backbone import Trunk
from training.models.base import ModelOutput
from training.models.query2label import Query2Label

NUM, NUM_CLASSES = 8, 4


def method_of(**settings: float) -> Mime:
    return Mime(MimeConfig(**settings), Sizes(NUM_CLASSES, NUM, 4))  # type: ignore[arg-type]  # checked when built


def test_the_highest_scores_of_each_class_are_left_open() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, observed = torch.randn(NUM, NUM_CLASSES, generator=generator), torch.zeros(NUM, NUM_CLASSES).bool()
    observed[[0, 1, 2, 3], [0, 0, 0, 1]] = True
    logits[4:, 2] = 1.0  # equal scores: the first of them counts
    negative = torch.zeros_like(observed)
    negative[5, 0] = True
    for expected_positives, known in ((1.5, None), (1.5, negative), (3.0, negative)):
        method = method_of(expected_positives=expected_positives)
        method.end_epoch(2, logits, observed, known)
        for label in range(NUM_CLASSES):
            closed = observed if known is None else observed | known
            unknown = [row for row in range(NUM) if not closed[row, label]]
            quota = math.floor(int(observed[:, label].sum()) * expected_positives)
            best = sorted(unknown, key=lambda row: (-float(logits[row, label]), row))[:quota]
            assert method.left_open[:, label].nonzero()[:, 0].tolist() == sorted(best)
    method.end_epoch(3, -logits, observed, None)
    assert not method.left_open[observed].any(), "chosen afresh, and never an observed positive"
    assert [epoch for epoch in range(1, 5) if method.needs_train_scores(epoch)] == [2, 3]


def test_loss_and_gradient_are_the_formula() -> None:
    batch, model = make_batch(NUM, NUM_CLASSES)
    method = method_of()
    method.left_open = torch.rand(NUM, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4
    open_ = method.left_open[batch.index] & (batch.observed == 0)
    assert 0 < int(open_.sum()) < open_.numel()

    def loss(logits: Tensor) -> float:
        total = 0.0
        for row in range(NUM):
            for label in range(NUM_CLASSES):
                prob = sigmoid(float(logits[row, label]))
                if batch.observed[row, label]:
                    total += nl(prob)
                elif not open_[row, label]:
                    total += nl(1 - prob)
        return total / (NUM * NUM_CLASSES)

    assert loss_of(method.step(model, batch, 3)) == pytest.approx(loss(model.logits.detach()), rel=1e-5)
    slope = slope_of(loss, model.logits.detach())
    assert torch.allclose(gradient_of(method, model, batch, 3), slope, atol=2e-3)
    known = replace(batch, negative=open_)
    assert loss_of(method.step(model, known, 3)) == pytest.approx(loss_of(method_of().step(model, batch, 3)), rel=1e-5)
    sums = method.step(model, batch, 3).sums
    assert float(sums["rejected"]) == float(open_.sum())


class _WithLatents(FixedLogits):
    def forward(self, images: Tensor) -> ModelOutput:
        return super().forward(images)._replace(latents=(self.mean, self.log_std))

    mean: Tensor
    log_std: Tensor


def test_divergence_is_that_of_two_normal_distributions() -> None:
    batch, plain = make_batch(NUM, NUM_CLASSES)
    model = _WithLatents(plain.logits.detach())
    generator = torch.Generator().manual_seed(3)
    model.mean, model.log_std = (torch.randn(NUM, NUM_CLASSES, 5, generator=generator) for _ in range(2))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(model.mean, model.log_std.exp()), normal(0.0, 1.0)).mean()
    part = method_of(kl_weight=0.5).step(model, batch, 1).parts["kl"]
    assert float(part.weight * part.numerator / part.count) == pytest.approx(0.5 * float(expected), rel=1e-5)


def test_latent_vectors_are_means_of_ten_draws_and_the_mean_in_evaluation() -> None:
    torch.manual_seed(0)
    config = ModelConfig(name="query2label", hidden_dim=8, feedforward_dim=8, num_heads=2, dropout=0.0, latent_dim=6)
    model = Query2Label(Trunk(nn.Conv2d(3, 8, 3), 8, "none"), NUM_CLASSES, config)
    with torch.no_grad():
        image = torch.rand(1, 3, 6, 6)
        model.eval()
        mean = model(image)
        assert mean.latents is not None
        assert torch.equal(model(image).logits, mean.logits)
        head = model.head
        assert torch.allclose(mean.logits, (mean.latents[0] * head.weight).sum(2) + head.bias)
        model.train()
        drawn = model(image.expand(4000, -1, -1, -1)).logits
        deviation = ((mean.latents[1].exp() * head.weight).square().sum(2) / 10).sqrt()
        assert torch.allclose(drawn.mean(0), mean.logits[0], atol=0.02)
        assert torch.allclose(drawn.std(0), deviation[0], rtol=0.1)
