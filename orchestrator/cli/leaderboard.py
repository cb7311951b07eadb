"""The verb that ranks a sweep's trials: leaderboard."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.lookup import print_source
from orchestrator.cli.options import AllowMixedOption, JsonOption, WorkArgument
from orchestrator.cli.output import (
    NO_TRUE_LABELS,
    format_number,
    format_score,
    print_csv,
    print_json,
    print_line,
    print_note,
    print_table,
    print_text,
)
from orchestrator.cli.report_table import print_report
from orchestrator.durations import format_seconds
from orchestrator.program import program

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.results.summary import Source
    from orchestrator.sweep_folder.state import SweepState

# Nobody reads more rows on a screen, and drawing thousands of them takes seconds.
MAX_SCREEN_ROWS = 300


def leaderboard(
    sweep: WorkArgument = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    allow_mixed: AllowMixedOption = False,
) -> None:
    """Rank a sweep's trials.

    The sweep's protocol decides the order; scores are in percent. Of a benchmark, it prints the main table. For a sweep
    that is not in this home, asks MLflow.
    """
    from orchestrator.cli.suite import print_results
    from orchestrator.errors import UserError
    from orchestrator.results.suite_record import find_suite
    from orchestrator.results.summary import make_source
    from orchestrator.tracking.lookup import find_or_recall
    from orchestrator.tracking.reading import read_sweep_quickly

    if json and csv:
        raise UserError("leaderboard prints JSON or CSV, not both. Leave out --json or --csv.")
    if (suite := find_suite(sweep)) is not None:
        print_results(suite, allow_mixed=allow_mixed, json=json, csv=csv)
        return
    found = find_or_recall(sweep)
    if isinstance(found, str):
        (plan, state), source = read_sweep_quickly(found), None
    else:
        print_source(found)
        plan, state, source = found.plan, found.state, make_source(found)
    if json:
        print_leaderboard_json(plan, state, source)
    elif csv:
        _print_csv(plan, state)
    else:
        num_rows = MAX_SCREEN_ROWS if sys.stdout.isatty() else None
        print_leaderboard(plan, state, num_rows, is_here=source is None)


def print_leaderboard(plan: SweepPlan, state: SweepState, num_rows: int | None = None, *, is_here: bool = True) -> None:
    """Print a leaderboard under a heading that says what its scores refer to.

    Args:
        plan: The sweep.
        state: Its state, replayed from its journal.
        num_rows: Print at most this many rows; None prints all.
        is_here: Whether the sweep is in this home, where the tracebacks of failed trials are.
    """
    from orchestrator.results.ablation import tabulate_ablation
    from orchestrator.results.opened_test import find_openings, summarise_test
    from orchestrator.results.spending import describe_devices, sum_spending
    from orchestrator.results.summary import NO_LABELS, make_heading
    from orchestrator.results.tables import rank_trials
    from orchestrator.sweep_folder.promotion_report import make_report

    rows = rank_trials(plan, state)
    heading = make_heading(plan)
    marks = f" ({heading.marks})" if heading.marks else ""
    print_text(
        f"{plan.id}: {plan.method}{marks} on {plan.dataset}, recipe {heading.recipe}, {heading.metric} in percent, "
        f"selected by {plan.protocol}"
    )
    scores = None if state.test is None else summarise_test(state.test.figures, plan.num_seeds)
    if rows:
        _print_rows(plan, rows, num_rows, None if scores is None else scores.metric, is_here=is_here)
    else:
        print_note("No trial has started yet.")
    if scores is not None:
        print_line(f"test: {scores}")
    if plan.kind == "promote":
        print_report(make_report(plan, state.records, None if state.test is None else state.test.figures))
    if plan.kind == "ablate":
        _print_ablation(plan, tabulate_ablation(plan, state.records.values()))
    if is_here and rows:
        spending = sum_spending(plan, state)
        print_text(f"spent: {spending}")
        if state.early_end is not None:
            print_text(f"ended early: {state.early_end}")
        if (devices := describe_devices(state.records.values())) is not None:
            print_text(devices)
    if is_here and (openings := find_openings(state)) is not None:
        print_line(str(openings))
    if state.provenance.get("true_labels") == NO_LABELS:
        print_text(NO_TRUE_LABELS)


def print_leaderboard_json(plan: SweepPlan, state: SweepState, source: Source | None = None) -> None:
    """Print a leaderboard as JSON; for a sweep from another home, the source says where it comes from."""
    from orchestrator.results.ablation import tabulate_ablation
    from orchestrator.results.opened_test import find_openings, summarise_test
    from orchestrator.results.spending import sum_spending
    from orchestrator.results.summary import make_heading
    from orchestrator.results.tables import rank_trials
    from orchestrator.sweep_folder.promotion_report import make_report

    printed = asdict(make_heading(plan)) | ({} if source is None else asdict(source))
    printed["true_labels"] = state.provenance.get("true_labels")
    printed["over"] = state.over_message
    printed["rows"] = rank_trials(plan, state)
    if state.test is not None:
        printed["test"] = asdict(summarise_test(state.test.figures, plan.num_seeds))
    if plan.kind == "promote":
        figures = None if state.test is None else state.test.figures
        printed["report"] = make_report(plan, state.records, figures).to_json()
    if source is None:
        printed["spending"] = sum_spending(plan, state).to_json()
    if source is None and (openings := find_openings(state)) is not None:
        printed["test_openings"] = openings.num
    if plan.kind == "ablate" and (ablation := tabulate_ablation(plan, state.records.values())):
        printed["ablation"] = ablation
    print_json(printed)


def _print_csv(plan: SweepPlan, state: SweepState) -> None:
    from orchestrator.results.summary import make_heading
    from orchestrator.results.tables import rank_trials

    # Every row names its sweep and settings, because rows from several files may end up in one table.
    heading = asdict(make_heading(plan))
    # The test figures under their own names, as in the table and in MLflow.
    print_csv([{**row, **tests, **heading} for row in rank_trials(plan, state) for tests in [row.pop("test", {})]])


def _print_rows(
    plan: SweepPlan, rows: list[dict[str, Any]], num_rows: int | None, test_metric: str | None, *, is_here: bool
) -> None:
    from orchestrator.home import ERRORS_DIR, sweep_dir

    # The union, in the order of the space: start points may fix keys that other trials draw.
    keys = list(dict.fromkeys(key for row in rows for key in row["params"]))
    failed = any(row["cause"] for row in rows)
    # The last word is enough to identify a parameter, and the table is already wide.
    names = [key.rsplit(".", 1)[-1] for key in keys]
    tests = [] if test_metric is None else [test_metric]
    headers = ["#", "trial", "state", "score", "epoch", *tests, *names, "time", *(["failure"] if failed else [])]
    shown = rows[:num_rows]
    params = range(5 + len(tests), 5 + len(tests) + len(keys))
    time_s, failure = params.stop, params.stop + 1
    command = f"{program()} leaderboard {plan.id}"
    print_table(
        headers,
        [_cells(row, keys, tests)[: len(headers)] for row in shown],
        right=[0, 1, *range(3, time_s + 1)],
        wrapped=[failure],
        # On a narrow terminal, the space's last parameter is dropped first; score, state and failure are kept.
        drop=[time_s, *reversed(params), 4],
        hint=f"{command} --csv",
    )
    if failed:
        # Tracebacks stay with the driver; MLflow has only their last line.
        there = f"in the home of its driver, sweeps/{plan.id}/{ERRORS_DIR}"
        print_note(
            f"Tracebacks of failed trials: {shlex.quote(str(sweep_dir(plan.id) / ERRORS_DIR)) if is_here else there}"
        )
    if len(shown) < len(rows):
        # On a screen, the command without --csv would cut the table at the same place.
        whole = " --csv" if len(shown) >= MAX_SCREEN_ROWS else ""
        print_line(f"  and {len(rows) - len(shown)} more: {command}{whole}")


def _print_ablation(plan: SweepPlan, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    print_text(
        f"\n{plan.protocol.metric} on validation data, mean and deviation over training seeds; difference from "
        f"{plan.method} seed by seed"
    )
    cells = [
        (
            row["variant"],
            _count_seeds(row),
            _plus_minus(row["mean"], row["deviation"]),
            _plus_minus(row["difference"], row["difference_deviation"]),
        )
        for row in rows
    ]
    print_table(["variant", "seeds", "score", "difference"], cells, right=[1, 2, 3])


def _count_seeds(row: Mapping[str, Any]) -> str:
    failed = row["num_failed"]
    return f"{row['num_seeds']} ({failed} failed)" if failed else str(row["num_seeds"])


def _plus_minus(mean: float | None, deviation: float | None) -> str:
    return "" if mean is None else format_score(mean) + ("" if deviation is None else f" +- {format_score(deviation)}")


def _cells(row: Mapping[str, Any], keys: list[str], tests: list[str]) -> list[str]:
    return [
        format_number(row["rank"]),
        str(row["trial"]),
        row["state"],
        format_score(row["value"]),
        "" if row["epoch"] is None else f"{row['epoch']}/{row['last_epoch']}",
        *(format_score(row["test"].get(metric)) for metric in tests),
        *(format_number(row["params"].get(key)) for key in keys),
        format_seconds(row["run_s"]),
        f"{row['cause']}: {row['message']}" if row["cause"] else "",
    ]
