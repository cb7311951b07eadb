"""Put together the report of a promotion: final runs, the decision, what the test split showed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Drawing

from orchestrator.durations import format_hours
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.cost_figures import draw_breakdown, draw_timeline, failures_table
from orchestrator.report.document import Cell, Column, Figure, Headers, Part, Report, Section, Table, make_table
from orchestrator.report.findings import describe_cost, describe_failures, describe_ledger
from orchestrator.report.openings import final_scores, find_openings
from orchestrator.report.published_section import make_published_section
from orchestrator.report.search_figures import draw_learning_curves
from orchestrator.report.statistics import Interval, mean_interval, winners_curse
from orchestrator.report.svg import BLUE, GREEN, INK, MUTED, RED, new_figure
from orchestrator.report.sweep_report import describe_context, describe_origin, merge_sections
from orchestrator.report.view import SweepView, measure_noise
from orchestrator.results.opened_test import TestScores, summarise_test
from orchestrator.sweep_folder.final_sets import final_sets
from orchestrator.sweep_folder.promotion_report import make_report, of_winner
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep

_SEED_KEY = "loop.seed"
_DRAW_KEY = "data.draw_seed"


def make_promotion_report(plan: SweepPlan, state: SweepState, extra: Sequence[Section] = ()) -> Report:
    """Return the report of a promotion; ``extra`` are sections about its data and its pictures."""
    scores, sweep = final_scores(plan, state), _find_sweep(plan.parent)
    view, test = SweepView(plan, state, measure_noise(scores, plan.id)), _read_test(plan, state)
    findings = [
        _describe_decision(state),
        _describe_scores(view, scores),
        _describe_test(test),
        describe_ledger(find_openings([(plan, state)], state.provenance.get("data_hash"))),
        _describe_fall(sweep, scores),
        describe_cost(view),
        describe_failures(view),
    ]
    parts: list[Part | None] = [
        _draw_seeds(view, scores, test, sweep),
        _steps_table(scores, test, sweep) if plan.choice is None else None,
        _choice_table(view),
        _runs_table(view),
        draw_learning_curves(view),
    ]
    costs: list[Part | None] = [draw_timeline(view), draw_breakdown(view), failures_table(view)]
    sections = [
        Section("runs", "The final runs", (), tuple(part for part in parts if part)),
        make_published_section(plan),
        *extra,
        Section("cost", "What it cost", (), tuple(part for part in costs if part)),
    ]
    return Report(
        name=plan.id,
        title=f"Promotion {plan.id}",
        context=f"Final runs of the winner of {plan.parent}. {describe_context(view)}",
        findings=tuple(sentence for sentence in findings if sentence),
        facts=_facts(view, scores, test),
        sections=merge_sections(sections),
        footer=describe_origin(view),
    )


def _find_sweep(sweep_id: str | None) -> SweepView | None:
    """Return the sweep that was promoted, or None if this home does not have it."""
    try:
        return None if sweep_id is None else SweepView(*read_sweep(sweep_id))
    except (OrchestratorError, UserError):
        return None


def _describe_decision(state: SweepState) -> str:
    decided = state.promotion
    if decided is None:
        return "Nothing has been decided yet."
    version = f" It is registered as {state.champion.version}." if state.champion else ""
    marks = f" Note: {'; '.join(decided.marks)}." if decided.marks else ""
    return f"{decided.verdict}: {decided.reason}.{version}{marks}"


def _describe_scores(view: SweepView, scores: Sequence[float]) -> str | None:
    if not scores:
        return None
    return (
        f"On validation data, the {len(scores)} final runs have a mean of {_interval(mean_interval(scores))} % "
        f"{view.metric}; their seeds were not used in the search."
    )


def _interval(found: Interval) -> str:
    if math.isinf(found.low):
        return f"{found.value:.2f}"
    return f"{found.value:.2f} (95 % interval over seeds {found.low:.2f} to {found.high:.2f})"


@dataclass(frozen=True)
class _Test:
    """What the winner's runs score on the test split, in percent."""

    summary: TestScores
    values: Sequence[float]


def _read_test(plan: SweepPlan, state: SweepState) -> _Test | None:
    if state.test is None:
        return None
    runs = of_winner({int(run): metrics for run, metrics in state.test.figures.items()}, plan)
    summary = summarise_test(state.test.figures, plan.num_seeds)
    metric = summary.metric or ""
    return _Test(summary, [run[metric] for run in runs if metric in run])


def _describe_test(test: _Test | None) -> str:
    if test is None:
        return "The test split has not been opened by this promotion."
    text = f"The test split was opened after the decision: {test.summary}"
    if len(test.values) < 2:
        return f"{text}."
    found = mean_interval(test.values)
    return f"{text}; 95 % interval over seeds {found.low:.2f} to {found.high:.2f}, on this one test split."


def _describe_fall(sweep: SweepView | None, scores: Sequence[float]) -> str | None:
    """Say how the final runs compare with the score that won the sweep."""
    if sweep is None or sweep.winner is None or not scores:
        return None
    raw, mean = sweep.complete[sweep.winner.trial], statistics.fmean(scores)
    how = "below" if mean < raw else "above"
    text = (
        f"The best score of the sweep was {raw:.2f}; the final runs' mean is {abs(raw - mean):.2f} points {how} that."
    )
    curse = _expected_curse(sweep, scores)
    if curse is None:
        return text
    return f"{text} A fall of about {curse:.2f} was to be expected, as the best score of many is also the luckiest."


def _expected_curse(sweep: SweepView, scores: Sequence[float]) -> float | None:
    searched = list(sweep.complete.values())
    if len(scores) < 2 or len(searched) < 3:
        return None
    return winners_curse(statistics.stdev(scores), statistics.stdev(searched), len(searched))


def _facts(view: SweepView, scores: Sequence[float], test: _Test | None) -> tuple[tuple[str, str], ...]:
    decided = view.state.promotion
    facts = [("decision", "none yet" if decided is None else decided.verdict)]
    for metric, values in [(view.metric, scores), *([(str(test.summary.metric), test.values)] if test else [])]:
        if values:
            found = mean_interval(values)
            half = "" if math.isinf(found.low) else f" ± {found.high - found.value:.2f}"
            facts.append((f"{metric}, {len(values)} seeds", f"{found.value:.2f}{half}"))
    facts.append(("test split opened", _count_openings(view) if test is not None else "never"))
    hours = view.total_hours
    return (*facts, (view.hours_unit, format_hours(hours)))


def _count_openings(view: SweepView) -> str:
    num = len(final_sets(view.plan))
    return "once" if num == 1 else f"{num} times"


def _runs_table(view: SweepView) -> Table:
    """Return every final run with its seed, its validation score and what it scored on the test split."""
    test = {} if view.state.test is None else view.state.test.figures
    names = sorted({name for figures in test.values() for name in figures})
    several = view.plan.num_draws > 1
    rows: list[tuple[Cell, ...]] = [
        (
            record.trial,
            *([_read(view.plan, record.trial, _DRAW_KEY)] if several else []),
            _read(view.plan, record.trial, _SEED_KEY),
            str(record.state),
            record.value(view.plan.protocol),
            record.chosen_epoch(view.plan.protocol),
            *(test.get(str(record.trial), {}).get(name) for name in names),
            record.held_s,
        )
        for record in view.trials
    ]
    columns: Headers = [
        "run",
        *(["label draw"] if several else []),
        "seed",
        "state",
        Column(f"{view.metric} (%)", 2),
        "epoch",
        *(Column(name, 2) for name in names),
    ]
    note = "The weights of the first seed are registered, chosen in advance; the others show how much a score varies."
    return make_table("final_runs", "Final runs", [*columns, Column("time (s)", 0)], rows, note)


def _read(plan: SweepPlan, trial: int, key: str) -> int | None:
    """Return a seed of a run, which is the sweep's where the run has none of its own."""
    seed = plan.start_from[trial].get(key, plan.base.get(key)) if trial < len(plan.start_from) else None
    return seed if isinstance(seed, int) else None


def _steps_table(scores: Sequence[float], test: _Test | None, sweep: SweepView | None) -> Table | None:
    """Return the way from the score that won the sweep to the reported one."""
    if not scores:
        return None
    rows: list[tuple[Cell, ...]] = []
    if sweep is not None and sweep.winner is not None:
        raw = sweep.complete[sweep.winner.trial]
        rows.append(("best score in the sweep", raw, None, None, "one run, chosen for its score: too high"))
        curse = _expected_curse(sweep, scores)
        if curse is not None:
            rows.append(
                ("less the winner's curse", raw - curse, None, None, f"best of {len(sweep.complete)} single runs")
            )
    rows.append(("mean of the final runs", *_bounds(scores), f"{len(scores)} fresh seeds, validation data"))
    if test is not None and test.values:
        what = f"the same {len(test.values)} runs; opened after the decision"
        rows.append(("mean on the test split", *_bounds(test.values), what))
    columns: Headers = ["score", *(Column(name, 2) for name in ("percent", "low", "high")), "what it is"]
    note = "Intervals are Student's, 95 %, over training seeds; they say nothing about other images."
    return make_table("steps", "From the sweep's score to the reported one", columns, rows, note)


def _choice_table(view: SweepView) -> Table | None:
    """Return what the rule chose and reports, as ``promote`` prints it; of another promotion, its label draws alone."""
    test = view.state.test
    found = make_report(view.plan, view.state.records, None if test is None else test.figures)
    columns: Headers = ["figure", "percent", "95 % interval", "over"]
    if view.plan.choice is not None:
        return make_table("steps", "From the sweep's score to the reported one", columns, list(found.rows()))
    rows = found.draw_rows()
    return make_table("draws", "Over label draws", columns, list(rows)) if rows else None


def _bounds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    found = mean_interval(values)
    return (found.value, None, None) if math.isinf(found.low) else (found.value, found.low, found.high)


def _draw_seeds(view: SweepView, scores: Sequence[float], test: _Test | None, sweep: SweepView | None) -> Figure | None:
    if not scores:
        return None
    raw = None if sweep is None or sweep.winner is None else sweep.complete[sweep.winner.trial]
    groups = [(view.metric, scores, BLUE, "o")]
    if test is not None and test.values:
        groups.append((str(test.summary.metric), test.values, GREEN, "s"))
    rows: list[tuple[Cell, ...]] = [
        (name, number, value) for name, values, _, _ in groups for number, value in enumerate(values)
    ]
    table = make_table("seeds", "Scores of the final runs", ["metric", "run", Column("score (%)", 2)], rows)

    def draw() -> Drawing:
        figure = new_figure(0.8 + 0.5 * len(groups))
        axes = figure.subplots()
        for place, (_, values, colour, marker) in enumerate(groups):
            found = mean_interval(values)
            if not math.isinf(found.low):
                axes.plot([found.low, found.high], [place, place], color=colour, linewidth=6, alpha=0.25)
            axes.plot(values, np.full(len(values), place), marker, color=colour, markerfacecolor="none", markersize=7)
            axes.plot(found.value, place, "|", color=INK, markersize=16, markeredgewidth=2)
        if raw is not None:
            axes.plot(raw, 0, "*", color=RED, markersize=11)
        axes.set_yticks(range(len(groups)), [name for name, *_ in groups])
        axes.set(xlabel="score (%)", ylim=(len(groups) - 0.5, -0.5))
        axes.grid(axis="y", color=MUTED, alpha=0.2)
        return figure

    star = " The star is the best score of the sweep." if raw is not None else ""
    description = (
        f"One mark per seed; the tick is their mean, the bar its 95 % interval over seeds (Student's t).{star}"
    )
    return Figure("seeds", "How much the score varies from seed to seed", description, draw, table)
