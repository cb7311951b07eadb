"""Test the second implementation of the metrics: right by hand, and equal to the first one to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.audit.plain_metrics import average_precision, plain_metrics
from training.metrics import compute_metrics


def test_average_precision_by_hand() -> None:
    labels = np.array([True, False, True, False])
    assert average_precision(np.array([4, 3, 2, 1], np.float32), labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # The second and third share a threshold, at which two of three are positive.
    assert average_precision(np.array([4, 2, 2, 1], np.float32), labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.array([1, 1, 1, 1], np.float32), labels) == pytest.approx(0.5)
    assert average_precision(np.array([1, 2, 3, 4], np.float32), np.zeros(4, bool)) == 0


@pytest.mark.parametrize("has_true", [True, False])
def test_both_implementations_agree_with_ties_and_absent_classes(has_true: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    for num in (1, 2, 50):
        for rounding in (0, 1, 4):
            logits = (torch.randn(num, 6, generator=generator) * 10**rounding).round() / 10**rounding * 2
            true = torch.rand(num, 6, generator=generator) < 0.3
            true[:, 4] = False
            observed = true & (true.cumsum(1) == 1)
            first = compute_metrics("val", logits, true if has_true else None, observed)
            second = plain_metrics("val", logits.numpy(), true.numpy() if has_true else None, observed.numpy())
            assert second == pytest.approx(first, abs=1e-9)
            assert list(second) == list(first)
