"""Summarise a promotion: what the sweep said, what the race said, and what fresh seeds say, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from orchestrator.planning.choice import BEST_SCORE, RULE, Choice
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.final_sets import final_sets
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from training.counts import counted
from training.metric_names import TEST_MAP, TEST_OBSERVED_MAP

T = TypeVar("T")
_DIFFERENCE = "difference to the champion"
_FIGURES = ("reported", "difference", "test", "test_difference")
DRAWN, GIVEN = "drawn", "given"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent, with Student's 95 % interval; None below two seeds."""

    metric: str
    mean: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True)
class DrawEstimate:
    """A mean over label draws with several seeds each, in percent, see :func:`orchestrator.intervals.nested_mean`.

    Attributes:
        draw_sd, seed_sd: Deviations between draws and between seeds; None if they cannot be told apart.
        num_draws: How many have a result; ``num_runs`` is the number of all runs.
    """

    metric: str
    mean: float
    low: float | None
    high: float | None
    draw_sd: float | None
    seed_sd: float | None
    num_draws: int
    num_runs: int


@dataclass(frozen=True)
class PromotionReport:
    """The figures of a promotion.

    Attributes:
        rule: ``race`` or ``best-score``.
        choice: How the rule chose; None by best score.
        reported, test: The winner on validation and on test data, over seeds that chose nothing by the rule, on the
            label draw of the sweep.
        difference, test_difference: Winner minus champion, seed by seed; None if the champion did not run.
        draws: The same four over all label draws, by name; empty if there is one.
        labels: ``drawn``, or ``given`` if the dataset gives the observed ones, so that only seeds vary; None if an
            earlier version did not record it.
    """

    rule: str
    choice: Choice | None
    reported: Estimate | None
    difference: Estimate | None
    test: Estimate | None
    test_difference: Estimate | None
    draws: Mapping[str, DrawEstimate] = field(default_factory=dict)
    labels: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "choice": None if self.choice is None else self.choice.to_json()}

    def flatten(self) -> dict[str, str]:
        """Return the figures as text under dotted names, as MLflow has them."""
        flat = {"rule": self.rule}
        if self.choice is not None:
            shown = self.choice.to_json().items()
            flat |= {f"choice.{key}": str(value) for key, value in shown if value is not None and key != "rule"}
        figures = {name: getattr(self, name) for name in _FIGURES if getattr(self, name) is not None}
        for name, found in {**figures, **{f"draws.{name}": found for name, found in self.draws.items()}}.items():
            flat |= {f"{name}.{key}": str(value) for key, value in asdict(found).items() if value is not None}
        return flat if self.labels is None else {**flat, "labels": self.labels}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return what, how much, its 95 % interval and where it comes from, as text."""
        rows = [] if self.choice is None else _choice_rows(self.choice)
        seeds = "fresh seeds, which chose nothing" if self.choice is not None else "fresh seeds, which also decided"
        for label, found in (("reported", self.reported), (_DIFFERENCE, self.difference)):
            rows += _estimate_rows(label, found, seeds)
        for label, found in (("reported", self.test), (_DIFFERENCE, self.test_difference)):
            rows += _estimate_rows(label, found, "of the same seeds")
        return rows + self.draw_rows()

    def draw_rows(self) -> list[tuple[str, str, str, str]]:
        """Return those rows that are about label draws."""
        if self.labels == GIVEN:
            return [("label draws", "", "", "none: the observed labels are given, so only seeds vary")]
        return [_draw_row(name, found) for name, found in self.draws.items()]


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
    values = {"reported": (metric, val), "test": (test_metric, tests)}
    return PromotionReport(
        BEST_SCORE if plan.choice is None else RULE,
        plan.choice,
        _estimate(metric, of_winner(val, plan)),
        _estimate(metric, _differences(val, plan)),
        _estimate(test_metric, of_winner(tests, plan)),
        _estimate(test_metric, _differences(tests, plan)),
        _over_draws(values, plan),
        None if plan.label_draws is None else DRAWN if plan.label_draws else GIVEN,
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
    """Return the values of a promotion's runs of the winner on the sweep's label draw, as papers report them."""
    return [value for trial, value in sorted(values.items()) if trial < plan.num_seeds]


def _differences(values: Mapping[int, float], plan: SweepPlan) -> list[float]:
    return of_winner(_differences_by_run(values, plan), plan)


def _differences_by_run(values: Mapping[int, float], plan: SweepPlan) -> dict[int, float]:
    # The champion's runs follow the winner's, with the same draws and seeds in the same order.
    pairs = [(trial, trial + plan.num_final) for trial in range(plan.num_final)]
    return {own: values[own] - values[theirs] for own, theirs in pairs if own in values and theirs in values}


def _over_draws(values: Mapping[str, tuple[str, Mapping[int, float]]], plan: SweepPlan) -> dict[str, DrawEstimate]:
    """Return the estimates over all label draws; none if there is only one."""
    if plan.kind != "promote" or plan.num_draws == 1:
        return {}
    found = {}
    for name, (metric, of_runs) in values.items():
        prefix = "test_" if name == "test" else ""
        for label, own in ((name, of_runs), (f"{prefix}difference", _differences_by_run(of_runs, plan))):
            if (estimate := _estimate_draws(metric, own, plan)) is not None:
                found[label] = estimate
    return found


def _estimate_draws(metric: str, values: Mapping[int, float], plan: SweepPlan) -> DrawEstimate | None:
    sets = [runs.trials for runs in final_sets(plan) if not runs.is_champion]
    groups = [[values[trial] for trial in trials if trial in values] for trials in sets]
    known = [group for group in groups if group]
    if not known:
        return None
    from orchestrator.intervals import nested_mean

    found = nested_mean(known)
    num_runs = sum(map(len, known))
    return DrawEstimate(metric, found.mean, found.low, found.high, found.group_sd, found.value_sd, len(known), num_runs)


def _estimate(metric: str, values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    from orchestrator.intervals import mean_interval  # brings numpy

    low, high = mean_interval(values) if len(values) > 1 else (None, None)
    return Estimate(metric, sum(values) / len(values), low, high, len(values))


def _choice_rows(choice: Choice) -> list[tuple[str, str, str, str]]:
    rows = [
        ("best score", _show(choice.raw), "", f"of {counted(choice.num_trials, 'trial')}, one seed each: too high"),
        (
            "shrunken",
            _show(choice.shrunk),
            _show_interval(choice.low, choice.high),
            "the same trial, from the sweep alone",
        ),
    ]
    if choice.race_mean is not None:
        seeds = counted(choice.race_runs, "seed")
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


def _draw_row(name: str, found: DrawEstimate) -> tuple[str, str, str, str]:
    is_difference = name.endswith("difference")
    parts = [
        f"deviation {value:.2f} between {what}"
        for what, value in (("draws", found.draw_sd), ("seeds", found.seed_sd))
        if value is not None
    ]
    source = f"{counted(found.num_draws, 'label draw')}, {counted(found.num_runs, 'run')}" + "".join(
        f", {part}" for part in parts
    )
    label = f"{_DIFFERENCE if is_difference else 'all draws'}, {found.metric}"
    mean = f"{found.mean:+.2f}" if is_difference else _show(found.mean)
    return label, mean, _show_interval(found.low, found.high), source


def _show(value: float) -> str:
    return f"{value:.2f}"


def _show_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
