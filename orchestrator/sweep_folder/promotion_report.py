"""Summarise a promotion: what the sweep said, what the race said, and what fresh seeds say, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from orchestrator.intervals import mean_interval
from orchestrator.planning.choice import BEST_SCORE, RULE, Choice
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from training.metric_names import TEST_MAP, TEST_OBSERVED_MAP

T = TypeVar("T")
_DIFFERENCE = "difference to the champion"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent, with Student's 95 % interval; None below two seeds."""

    metric: str
    mean: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True)
class PromotionReport:
    """The figures of a promotion.

    Attributes:
        rule: ``race`` or ``best-score``.
        choice: How the rule chose; None by best score.
        reported, test: The winner on validation and on test data, over seeds that chose nothing by the rule.
        difference, test_difference: Winner minus champion, seed by seed; None if the champion did not run.
    """

    rule: str
    choice: Choice | None
    reported: Estimate | None
    difference: Estimate | None
    test: Estimate | None
    test_difference: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "choice": None if self.choice is None else self.choice.to_json()}

    def flatten(self) -> dict[str, str]:
        """Return the figures as text under dotted names, as MLflow has them."""
        flat = {"rule": self.rule}
        if self.choice is not None:
            shown = self.choice.to_json().items()
            flat |= {f"choice.{key}": str(value) for key, value in shown if value is not None and key != "rule"}
        for name in ("reported", "difference", "test", "test_difference"):
            found = getattr(self, name)
            if found is not None:
                flat |= {f"{name}.{key}": str(value) for key, value in asdict(found).items() if value is not None}
        return flat

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return what, how much, its 95 % interval and where it comes from, as text."""
        rows = [] if self.choice is None else _choice_rows(self.choice)
        seeds = "fresh seeds, which chose nothing" if self.choice is not None else "fresh seeds, which also decided"
        for label, found in (("reported", self.reported), (_DIFFERENCE, self.difference)):
            rows += _estimate_rows(label, found, seeds)
        for label, found in (("reported", self.test), (_DIFFERENCE, self.test_difference)):
            rows += _estimate_rows(label, found, "of the same seeds")
        return rows


def make_report(
    plan: SweepPlan, records: Mapping[int, TrialRecord], test: Mapping[str, Mapping[str, float]] | None
) -> PromotionReport:
    """Return the report of a promotion, as far as it has got.

    Args:
        plan: Its final runs; or its race, of which only the choice is known.
        records: Number of a run -> record.
        test: Number of a run, as text -> metrics on the test split in percent.
    """
    metric, val, opened = plan.protocol.metric, {}, test or {}
    if plan.kind == "promote":
        val = score_runs(plan, records)
    test_metric = find_test_metric(opened.values()) or ""
    tests = {int(trial): row[test_metric] for trial, row in opened.items() if test_metric in row}
    return PromotionReport(
        BEST_SCORE if plan.choice is None else RULE,
        plan.choice,
        _estimate(metric, of_winner(val, plan)),
        _estimate(metric, _differences(val, plan)),
        _estimate(test_metric, of_winner(tests, plan)),
        _estimate(test_metric, _differences(tests, plan)),
    )


def score_runs(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> dict[int, float]:
    """Return the score on validation data of every complete run that has one."""
    complete = {trial: record for trial, record in records.items() if record.state is TrialState.COMPLETE}
    return {trial: value for trial, record in complete.items() if (value := record.value(plan.protocol)) is not None}


def find_test_metric(figures: Iterable[Mapping[str, float]]) -> str | None:
    """Return the main metric of runs on a test split, which depends on whether that has true labels; None without."""
    measured = {name for row in figures for name in row}
    return next((name for name in (TEST_MAP, TEST_OBSERVED_MAP) if name in measured), None)


def of_winner(values: Mapping[int, T], plan: SweepPlan) -> list[T]:
    """Return the values of a promotion's runs that are the winner's; those of the champion follow them."""
    return [value for trial, value in sorted(values.items()) if trial < plan.num_final]


def _differences(values: Mapping[int, float], plan: SweepPlan) -> list[float]:
    # The champion's runs follow the winner's, with the same seeds in the same order.
    pairs = [(trial, trial + plan.num_final) for trial in range(plan.num_final)]
    return [values[own] - values[theirs] for own, theirs in pairs if own in values and theirs in values]


def _estimate(metric: str, values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    low, high = mean_interval(values) if len(values) > 1 else (None, None)
    return Estimate(metric, sum(values) / len(values), low, high, len(values))


def _choice_rows(choice: Choice) -> list[tuple[str, str, str, str]]:
    rows = [
        ("best score", _show(choice.raw), "", f"of {choice.num_trials} trials, one seed each: too high"),
        (
            "shrunken",
            _show(choice.shrunk),
            _show_interval(choice.low, choice.high),
            "the same trial, from the sweep alone",
        ),
    ]
    if choice.race_mean is not None:
        seeds = f"{choice.race_runs} seed{'s' * (choice.race_runs != 1)}"
        rows.append(("race", _show(choice.race_mean), "", f"trial {choice.trial}, {seeds} that chose it"))
    if choice.posterior is not None:
        rows.append(("posterior", _show(choice.posterior), "", f"trial {choice.trial}, all runs so far, shrunken"))
    if choice.champion_mean is not None:
        rows.append(("race, champion", _show(choice.champion_mean), "", f"{choice.champion}, the same seeds"))
    return rows


def _estimate_rows(label: str, found: Estimate | None, source: str) -> list[tuple[str, str, str, str]]:
    if found is None:
        return []
    mean = f"{found.mean:+.2f}" if label == _DIFFERENCE else _show(found.mean)
    interval = _show_interval(found.low, found.high)
    return [(f"{label}, {found.metric}", mean, interval, f"{found.num_seeds} {source}")]


def _show(value: float) -> str:
    return f"{value:.2f}"


def _show_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
