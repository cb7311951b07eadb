"""Test how criteria without true labels are compared with true ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from orchestrator.report.label_free import compute_rankings, rankings_table
from orchestrator.report.statistics import kendall, spearman
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.events import EpochReported, Event
from orchestrator.sweep_folder.journal import replay
from tests.kit import sweeps
from training.selection import SelectBy


def make_view(*, with_true: bool = True, num: int = 6) -> SweepView:
    """Return a sweep in which covering orders the trials as true labels do, and the estimated risk the other way."""
    plan = sweeps.make_sweep(num_trials=num + 1, scheduler="none")
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial in range(num):
        params: dict[str, Any] = {"optim.lr": 0.01 * (trial + 1)}
        events.append(sweeps.trial_started(trial, 1, **params))
        for epoch, gain in ((1, 0.0), (2, 3.0)):
            metrics = {
                "epoch": epoch,
                "val/mAP": 70.0 + trial + gain,
                "val/observed_mAP": 40.0 + (trial % 2) + gain,
                "val/covering_rate": 60.0 + trial + gain,
                # At its best in the first epoch, and for the worst trial.
                "val/estimated_accuracy": 80.0 - trial - gain,
            }
            if not with_true:
                del metrics["val/mAP"]
            events.append(EpochReported(trial, epoch, metrics, time_ms=sweeps.at(1 + epoch)))
        events.append(sweeps.trial_ended(trial, 5))
    events += [
        sweeps.trial_started(num, 1),
        sweeps.epoch_reported(num, 1, 2, 99.0),
        sweeps.trial_ended(num, 3, "PRUNED"),
    ]
    sweeps.write_events(plan, [*events, sweeps.driver_ended(9)])
    return SweepView(plan, replay(sweeps.journal_path(plan)))


def test_each_criterion_is_judged_at_the_epoch_and_the_trial_that_it_chooses(home: None) -> None:
    view = make_view()
    observed, covering, risk = compute_rankings(view.trials)
    assert [each.select_by for each in (observed, covering, risk)] == [
        SelectBy.OBSERVED_VAL,
        SelectBy.COVERING_RATE,
        SelectBy.UNBIASED_RISK,
    ]
    assert covering.kendall.value == pytest.approx(1.0)
    assert (covering.trial, covering.regret) == (5, 0.0)
    assert covering.kendall.low < 1.0, "six trials prove little"
    assert risk.kendall.value == pytest.approx(-1.0)
    assert (risk.trial, risk.clean, risk.regret) == (0, 70.0, 8.0)
    assert (observed.trial, observed.regret) == (1, 4.0)
    table = rankings_table(view)
    assert table is not None
    assert table.rows[-1][0] == "a random trial"
    assert table.rows[-1][-1] == pytest.approx(2.5)
    assert "Over 6 complete trials" in table.note


@pytest.mark.parametrize(("with_true", "num"), [(False, 6), (True, 4)])
def test_nothing_is_said_without_true_labels_or_with_few_trials(with_true: bool, num: int, home: None) -> None:
    assert rankings_table(make_view(with_true=with_true, num=num)) is None


def test_intervals_of_rank_correlations_cover() -> None:
    rng, rho = np.random.default_rng(0), 0.7
    truth = {"kendall": 2 / math.pi * math.asin(rho), "spearman": 6 / math.pi * math.asin(rho / 2)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(600):
        first = rng.standard_normal(16)
        second = rho * first + math.sqrt(1 - rho**2) * rng.standard_normal(16)
        for name, compute in (("kendall", kendall), ("spearman", spearman)):
            found = compute(first.tolist(), second.tolist())
            covered[name] += found.low <= truth[name] <= found.high
    assert all(0.92 < count / 600 < 0.98 for count in covered.values()), covered
    assert math.isnan(kendall([1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).value)
