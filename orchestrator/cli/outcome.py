"""Prints what a sweep, a training or an ablation came to, and exits with its code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED
from orchestrator.cli.output import print_next, print_note, print_tracking_problem, program
from orchestrator.cli.results import read_sweep, show_leaderboard
from orchestrator.durations import format_seconds

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.sweep.driver import SweepOutcome
    from orchestrator.sweep.options import DriveOptions

MAX_ROWS = 20


def finish_sweep(outcome: SweepOutcome, options: DriveOptions, started: float, json: bool) -> None:
    """Print the leaderboard and what to type next; exit with 130 if interrupted, 1 if no trial was completed."""
    plan = outcome.plan
    # Read again, because what the driver saw running is interrupted now.
    show_leaderboard(*read_sweep(plan.id), json=json, num_rows=MAX_ROWS)
    print_tracking_problem(plan.id, outcome.tracking_problem)
    if outcome.backup_problem:
        print_note(
            f"The backup lacks some of it ({outcome.backup_problem}); `{program()} resume {plan.id}` copies it when it "
            f"is back."
        )
    print_note(f"{outcome.state.lower()}, {format_seconds(time.monotonic() - started)}")
    if outcome.state == "INTERRUPTED":
        print_note(f"Resume with: {program()} resume {plan.id}{options.repeated_flags()}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.best is None:
        print_note("No trial was completed.")
        raise typer.Exit(EXIT_FAILURE)
    if not json:
        print_next(_next_steps(plan))


def _next_steps(plan: SweepPlan) -> dict[str, str]:
    browse = {f"browse {plan.id}": "see its runs in MLflow"}
    if plan.kind == "ablate":
        return {f"leaderboard {plan.id}": "the table again, and every run", **browse}
    if plan.kind == "train":
        return {**browse, f"train --from {plan.id}/0 --set loop.seed=1": "the same with another training seed"}
    steps = {f"promote {plan.id}": "train the winner anew; champion if it is better", **browse}
    if plan.num_points is None:  # where there is always another one to try
        steps[f"extend {plan.id} --trials +{plan.num_trials}"] = "search on from here"
    return steps
