"""Summarise what a promotion measured on the test split, and how often that was opened."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.sweep_folder.ledger import LedgerError, count_openings, read_ledger
from orchestrator.sweep_folder.promotion_report import find_test_metric
from orchestrator.sweep_folder.state import SweepState
from training.counts import counted
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
        seeds = counted(self.num_runs, "seed")
        text = f"{self.mean:.2f}{spread} {self.metric} in percent over {seeds}"
        if self.metric == TEST_OBSERVED_MAP:
            text += f" ({TEST_MAP} needs true labels, which the test split does not have)"
        return text


def summarise_test(
    figures: Mapping[str, Mapping[str, float]] | Mapping[int, Mapping[str, float]], num_seeds: int | None = None
) -> TestScores:
    """Return the mean and the deviation of the main metric.

    Args:
        figures: Final run -> metrics in percent, as the journal's ``test_opened`` has them.
        num_seeds: The first so many runs are the winner's on the sweep's label draw; those on further draws and those
            of the champion follow. None if all are.
    """
    runs = [metrics for run, metrics in figures.items() if num_seeds is None or int(run) < num_seeds]
    metric = find_test_metric(runs)
    if metric is None:
        # Only complete runs are evaluated; each then has figures, unless there was no image.
        return TestScores(None, None, None, 0, "the test split has no images" if runs else "no final run is complete")
    scores = [run[metric] for run in runs if metric in run]
    # One seed has no deviation.
    deviation = statistics.stdev(scores) if len(scores) > 1 else None
    return TestScores(metric, statistics.fmean(scores), deviation, len(scores))


@dataclass(frozen=True)
class TestOpenings:
    """How often a test set was opened.

    Attributes:
        num: By all runs of this home and those that share its ledger; None if the ledger is damaged.
        own: The number of the opening that the table shows, if it shows one.
        is_earlier: Whether the table shows test figures of a version without a ledger, which are in no count.
        problem: What is wrong with the ledger, if it is damaged.
    """

    __test__ = False  # not a test class, despite its name

    num: int | None
    own: int | None = None
    problem: str | None = None
    is_earlier: bool = False

    def __str__(self) -> str:
        """Return the line under a table."""
        if self.num is None:
            return f"openings of the test set: unknown. {self.problem}"
        text = f"openings of the test set: {self.num}"
        if self.is_earlier:
            return f"{text}, without this one, which is older than the test ledger"
        return text + (f"; this is number {self.own}" if self.own else "")


def count_test_openings(data_hash: str, own: int | None = None) -> TestOpenings:
    """Count the openings of the test set of some data in the ledger of this home."""
    try:
        return TestOpenings(count_openings(read_ledger(), data_hash), own)
    # A table of validation scores must not fail because of the ledger; the line under it says what is wrong.
    except LedgerError as error:
        return TestOpenings(None, own, str(error))


def find_openings(state: SweepState) -> TestOpenings | None:
    """Return what the table of a sweep says about its test set; None if that was never opened."""
    own = None if state.test is None else state.test.opening
    found = count_test_openings(state.provenance.get("data_hash", ""), own)
    if state.test is None:
        return found if found.num != 0 else None
    return replace(found, is_earlier=own is None and any(state.test.figures.values()))
