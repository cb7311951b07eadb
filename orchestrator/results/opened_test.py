"""Summarise what a promotion measured on the test split."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from training.metric_names import TEST_MAP, TEST_OBSERVED_MAP


@dataclass(frozen=True)
class TestScores:
    """The main metric of the final runs on the test split.

    Attributes:
        metric: ``test/mAP``; on a test split without true labels ``test/observed_mAP``; None if nothing was measured.
        mean, deviation: In percent over the runs that have it; None if there are too few.
        num_runs: How many have it.
        missing: Why nothing was measured, if so.
    """

    __test__ = False  # not a test class, despite its name

    metric: str | None
    mean: float | None
    deviation: float | None
    num_runs: int
    missing: str | None = None

    def __str__(self) -> str:
        """Return the figures as a sentence without a verb."""
        if self.metric is None or self.mean is None:
            return f"not measured: {self.missing}"
        spread = "" if self.deviation is None else f" +- {self.deviation:.2f}"
        seeds = f"{self.num_runs} seed{'' if self.num_runs == 1 else 's'}"
        text = f"{self.mean:.2f}{spread} {self.metric} in percent over {seeds}"
        if self.metric == TEST_OBSERVED_MAP:
            text += f" ({TEST_MAP} needs true labels, which the test split does not have)"
        return text


def summarise_test(figures: Mapping[str, Mapping[str, float]] | Mapping[int, Mapping[str, float]]) -> TestScores:
    """Return the mean and the deviation of the main metric.

    Args:
        figures: Final run -> metrics in percent, as the journal's ``test_opened`` has them.
    """
    runs = list(figures.values())
    for metric in (TEST_MAP, TEST_OBSERVED_MAP):
        scores = [run[metric] for run in runs if metric in run]
        if scores:
            # One seed has no deviation.
            deviation = statistics.stdev(scores) if len(scores) > 1 else None
            return TestScores(metric, statistics.fmean(scores), deviation, len(scores))
    # Only complete runs are evaluated; each then has figures, unless there was no image.
    return TestScores(None, None, None, 0, "the test split has no images" if runs else "no final run is complete")
