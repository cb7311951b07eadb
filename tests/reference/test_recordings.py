"""Compare the regulariser of recordings with its formula in NumPy, and see that every method's loop can have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.kit.scenes import random_batch, thin_trunks, tiny_config
from training.loop.epoch import EpochLoop
from training.loop.guard import FiniteGuard
from training.loop.recordings import RecordingMeans
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.models.registry import build_model

CPU = torch.device("cpu")


def test_losses_and_means_of_several_steps_are_the_formulas() -> None:
    recording_of = torch.tensor([0, 0, 1, 2, 1, 0])
    torch.manual_seed(3)
    regulariser = RecordingMeans(recording_of, 4, weight=0.7, decay=0.9)
    means = regulariser.means.double().numpy().copy()
    assert ((means >= 0.4) & (means <= 0.6)).all()
    generator = np.random.default_rng(0)
    for index in ([0, 1, 2], [5, 3, 4], [2, 4, 0]):
        logits = 3 * generator.standard_normal((3, 4))
        probs = 1 / (1 + np.exp(-logits))
        targets = means[recording_of[index].numpy()]
        expected = -(targets * np.log(probs) + (1 - targets) * np.log(1 - probs))
        given = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
        part = regulariser.part(given, torch.tensor(index))
        assert float(part.numerator.detach()) == pytest.approx(expected.sum(), rel=1e-5)
        assert (float(part.count), part.weight) == (12, 0.7)
        part.numerator.backward()
        assert given.grad is not None
        assert np.allclose(given.grad.numpy(), probs - targets, atol=1e-5)
        for recording in range(3):
            rows = [row for row, image in enumerate(index) if recording_of[image] == recording]
            if rows:
                means[recording] = 0.9 * means[recording] + 0.1 * probs[rows].mean(0)
        regulariser.update(torch.tensor(True))
        assert np.allclose(regulariser.means.numpy(), means, atol=1e-6)
    regulariser.part(torch.full((1, 4), 9.0), torch.tensor([0]))
    regulariser.update(torch.tensor(False))
    assert np.allclose(regulariser.means.numpy(), means, atol=1e-6), "a step that was not finite moves nothing"


METHODS: tuple[dict[str, Any], ...] = (
    {"method.name": "assumed_negative"},
    {"method.masked_pass_bn": "eval_both"},
    {"method.masked_pass_bn": "train"},
    {"method.name": "plc"},
)


def test_the_term_reads_the_weak_view_of_every_kind_of_method() -> None:
    with thin_trunks():
        for changes in METHODS:
            config = tiny_config(changes)
            torch.manual_seed(0)
            model, _ = build_model(config.model, 10, CPU)
            method = build_method(config.method, Sizes(10, 8, 4))
            regulariser = RecordingMeans(torch.arange(8) // 2, 10, weight=0.5, decay=0.9)
            loop = EpochLoop(config, model.train(), method, 4, CPU, recordings=regulariser)
            batch, before = random_batch(8), regulariser.means.clone()
            output, values = loop.take_step(batch, 2, 1, FiniteGuard(2, CPU))
            assert 0 < float(values["recordings"]) < 1
            assert len(output.parts) > 1
            assert (regulariser.means != before).all()
            assert float((regulariser.means - before).abs().max()) < 0.1 + 1e-6
