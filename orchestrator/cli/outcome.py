"""Prints the outcome of a sweep, a training or an ablation, and exits with its code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.leaderboard import print_leaderboard, print_leaderboard_json
from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED
from orchestrator.cli.output import print_next, print_note, print_tracking_problem
from orchestrator.durations import format_seconds
from orchestrator.program import program
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.sweep.driver import SweepOutcome
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.state import SweepState

# Enough to see what works; a command prints the whole table.
MAX_ROWS = 20


def finish_sweep(outcome: SweepOutcome, options: DriveOptions, started: float, json: bool) -> None:
    """Print the leaderboard and what to type next.

    Exits with 130 if the sweep was interrupted, and with 1 if most trials failed, or if no trial, or no run of some
    variant, was completed.
    """
    from orchestrator.results.ablation import find_failed, tabulate_ablation
    from orchestrator.sweep_folder.records import TrialState
    from orchestrator.tracking.reading import read_sweep

    # Read again: a trial that was running when the driver last looked is interrupted now.
    plan, state = read_sweep(outcome.plan.id)
    _keep_results(plan, state)
    if json:
        print_leaderboard_json(plan, state)
    else:
        print_leaderboard(plan, state, MAX_ROWS)
    print_tracking_problem(plan.id, outcome.tracking_problem)
    if outcome.backup_problem:
        print_note(
            f"The backup is incomplete ({outcome.backup_problem}). When it is back, complete it: {program()} resume "
            f"{plan.id}"
        )
    if outcome.state != "INTERRUPTED" and outcome.tracking_problem is None:
        add_report(plan.id)
    print_note(f"{outcome.state.lower()}, {format_seconds(time.monotonic() - started)}")
    if outcome.state == "INTERRUPTED":
        print_note(f"Resume with: {program()} resume {plan.id}{options.repeated_flags()}")
        raise typer.Exit(EXIT_INTERRUPTED)
    # A script must notice that there is nothing to promote, even though the sweep itself ended normally.
    if outcome.best is None:
        print_note("No trial was completed.")
        raise typer.Exit(EXIT_FAILURE)
    if plan.kind == "ablate" and (failed := find_failed(tabulate_ablation(plan, state.records.values()))):
        print_note(f"All runs of {', '.join(failed)} failed. See why: {program()} leaderboard {plan.id}")
        raise typer.Exit(EXIT_FAILURE)
    # Nor may a script take what is left of a search for its result: a node may lack something that trials need.
    if (num_failed := sum(record.state is TrialState.FAILED for record in outcome.records)) > len(outcome.records) / 2:
        print_note(
            f"{num_failed} of {counted(len(outcome.records), 'trial')} FAILED. See why: {program()} leaderboard "
            f"{plan.id}"
        )
        raise typer.Exit(EXIT_FAILURE)
    # With --json, stdout is the JSON alone.
    if not json:
        print_next(_next_steps(plan, state))


def add_report(sweep_id: str) -> None:
    """Put the page of the report into MLflow, and say so if that fails."""
    from orchestrator.report.in_mlflow import log_report

    if (problem := log_report(sweep_id)) is not None:
        print_note(f"note: MLflow has no report of {sweep_id} ({problem}). Write one: {program()} report {sweep_id}")


def _keep_results(plan: SweepPlan, state: SweepState) -> None:
    from orchestrator.sweep_folder.rows import write_results

    try:
        write_results(plan, state)
    # The journal has all of it, so a full disk loses nothing.
    except OSError as error:
        print_note(f"note: the results could not be written as Parquet ({error}).")


def _next_steps(plan: SweepPlan, state: SweepState) -> dict[str, str]:
    browse = {f"browse {plan.id}": "see its runs in MLflow"}
    if plan.kind == "ablate":
        return {f"leaderboard {plan.id}": "this table, and every run", **browse}
    if plan.kind == "train":
        return {**browse, f"train --from {plan.id}/0 --set loop.seed=1": "the same, with another training seed"}
    steps = {f"promote {plan.id}": "train the winner at full length", **browse}
    if state.is_limited and state.limit is not None:
        steps[f"extend {plan.id} --max-gpu-hours {2 * state.limit.max_gpu_hours:g}"] = "continue below a higher limit"
    elif state.is_over and state.over is not None:
        left = state.over.num_trials - state.over.num_started
        steps[f"extend {plan.id} --trials +{left}"] = "run the other trials all the same"
    elif plan.num_points is None:  # otherwise nothing is left to try
        steps[f"extend {plan.id} --trials +{plan.num_trials}"] = "continue the search"
    return steps
