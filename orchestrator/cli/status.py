"""The verb that shows how a sweep is doing: status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.lookup import print_source
from orchestrator.cli.options import EXIT_FAILURE, JsonOption, WorkArgument
from orchestrator.cli.output import (
    NO_TRUE_LABELS,
    format_score,
    print_json,
    print_line,
    print_next,
    print_note,
    print_table,
    print_text,
)
from orchestrator.cli.report_table import print_report
from orchestrator.durations import format_seconds
from orchestrator.program import program
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.results.summary import BrokenSweep, SweepSummary


def status(
    sweep: WorkArgument = None,
    every: Annotated[bool, typer.Option("--all", help="List all sweeps, trainings, ablations and promotions.")] = False,
    json: JsonOption = False,
) -> None:
    """Show how a sweep is doing.

    Shows its trials, the best so far, and what to run next; for a benchmark, its cells. For a sweep that is not in this
    home, asks MLflow.
    """
    from orchestrator.cli.suite import print_grid
    from orchestrator.results import summary
    from orchestrator.results.suite_record import find_suite
    from orchestrator.tracking.lookup import find_or_recall

    if every:
        _show_all(json)
        return
    if (suite := find_suite(sweep)) is not None:
        print_grid(suite, json=json)
        return
    found = find_or_recall(sweep)
    if isinstance(found, str):
        summed = summary.summarise(found)
    else:
        print_source(found)
        summed = summary.summarise_recalled(found)
    if json:
        print_json(summed.to_json())
    else:
        _print_status(summed)


def _show_all(json: bool) -> None:
    from orchestrator.results.suite_record import list_suites
    from orchestrator.results.summary import BrokenSweep, summarise_entry
    from orchestrator.sweep_folder.index import list_broken, list_sweeps

    entries = sorted([*list_sweeps(), *list_broken()], key=lambda entry: entry.created, reverse=True)
    summaries = [summarise_entry(entry) for entry in entries]
    broken = [found for found in summaries if isinstance(found, BrokenSweep)]
    if json:
        print_json([found.to_json() for found in summaries])
    elif summaries:
        _print_all(summaries)
        for found in broken:
            print_note(f"{found.sweep}: {found.error}")
        if suites := list_suites():
            print_note(f"benchmarks: {', '.join(suites)}. See one: {program()} status {suites[-1]}")
    else:
        print_note(f"No sweeps yet. Start one: {program()} sweep digits")
    # The list is printed anyway: one broken sweep must not hide the others.
    if broken:
        raise typer.Exit(EXIT_FAILURE)


def _print_all(summaries: Sequence[SweepSummary | BrokenSweep]) -> None:
    headers = ["id", "kind", "method", "state", "trials", "best", "created"]
    hint = f"{program()} status --all --json"
    print_table(headers, [_cells(found) for found in summaries], right=[4, 5], drop=[6, 2, 1], hint=hint)


def _cells(found: SweepSummary | BrokenSweep) -> tuple[str, ...]:
    from orchestrator.results.summary import BrokenSweep

    if isinstance(found, BrokenSweep):
        return found.sweep, found.kind, "", found.state, "", "", found.created
    best = format_score(found.best.value) if found.best else ""
    heading = found.heading
    return heading.sweep, found.kind, heading.method, found.state, _progress(found), best, found.created


def _print_status(found: SweepSummary) -> None:
    from orchestrator.results.opened_test import summarise_test
    from orchestrator.results.summary import NO_LABELS

    heading, best = found.heading, found.best
    unit = "run" if found.kind in ("promote", "race") else "trial"
    print_line(f"{heading.sweep}: {found.kind} of {heading.method} on {heading.dataset}, {found.state}")
    counts = ", ".join(f"{count} {state.lower()}" for state, count in found.trials.items() if count)
    print_line(f"  {unit + 's':6}  {_progress(found)} ended" + (f" ({counts})" if counts else ""))
    if best:
        score = f"{format_score(best.value)} {heading.metric} in percent"
        print_line(f"  best    {score}: {unit} {best.trial} at epoch {best.epoch}")
    if found.over is not None:
        print_text(f"  over    {found.over}")
    if found.decision:
        print_line(f"  {found.decision.verdict}: {found.decision.reason}")
    if found.test is not None:
        print_line(f"  test    {summarise_test(found.test, found.num_seeds)}")
    if found.report is not None:
        print_report(found.report)
    if found.openings is not None:
        print_line(f"  {found.openings}")
    if found.decision and found.decision.version:
        print_line(f"  registered as {found.decision.version}")
    _print_spending(found)
    if found.true_labels == NO_LABELS:
        print_text(NO_TRUE_LABELS)
    if found.open:
        rows = [
            (trial.trial, trial.state, f"{trial.last_epoch}/{found.epochs}", format_score(trial.value))
            for trial in found.open
        ]
        print_table([unit, "state", "epoch", heading.metric], rows, right=[0, 2, 3])
    print_next(_next_steps(found))


def _print_spending(found: SweepSummary) -> None:
    from orchestrator.results.promotion_spent import describe_spent

    if (waiting := found.waiting) is not None:
        since = datetime.fromtimestamp(waiting.since_ms / 1000).astimezone().isoformat(timespec="seconds")
        print_line(f"  waits   {counted(waiting.num_trials, 'trial')}, since {since}, for {waiting.what}")
    print_line(f"  time    {format_seconds(found.run_s)}")
    if found.spending is not None:
        print_line(f"  spent   {found.spending}")
        for line in describe_spent(found.parts, found.spending.unit):
            print_line(f"  {line}")
        if found.spending.limit_message is not None:
            print_line(f"  limit   {found.spending.limit_message}")


def _next_steps(found: SweepSummary) -> dict[str, str]:
    sweep, state = found.heading.sweep, found.state
    # Of a promotion from another home, only its runs and its decision are known.
    undecided = found.kind == "promote" and state == "FINISHED" and found.decision is None
    # A driver is running, so resuming would be refused.
    if state in ("STARTING", "CONCLUDING"):
        return {f"status {sweep}": "see its progress"}
    if undecided or state not in ("RUNNING", "FINISHED"):
        # Only the head that has its folder can continue it.
        if found.source is not None:
            return {f"submit resume {sweep}": "continue it, on the cluster whose head has its folder"}
        return {f"resume {sweep}": "continue where it stopped"}
    ranked = {f"leaderboard {sweep}": "its trials, ranked"}
    # Only the home that has its folder can promote it, and only what was searched has a winner.
    if state == "FINISHED" and found.kind == "sweep" and found.best is not None and found.source is None:
        return {f"promote {sweep}": "train the winner at full length", **ranked}
    return ranked


def _progress(found: SweepSummary) -> str:
    return f"{found.num_ended}/{found.num_trials}"
