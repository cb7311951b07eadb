"""The verb that retrains a sweep's winner and decides whether it becomes champion: promote."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.jobs import submitted
from orchestrator.cli.options import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AddressOption,
    AllowChangedOption,
    JsonOption,
    StealLeaseOption,
    SweepArgument,
)
from orchestrator.cli.outcome import add_report
from orchestrator.cli.output import (
    format_score,
    print_json,
    print_line,
    print_next,
    print_note,
    print_table,
    print_tracking_problem,
)
from orchestrator.cli.report_table import print_report
from orchestrator.durations import format_seconds
from orchestrator.errors import UserError
from orchestrator.program import program

if TYPE_CHECKING:
    from orchestrator.promotion.conclusion import PromotionOutcome
    from orchestrator.promotion.verdict import Decision
    from orchestrator.results.opened_test import TestOpenings
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.promotion_report import PromotionReport
    from orchestrator.sweep_folder.spent import Spent


def promote(
    context: typer.Context,
    sweep: SweepArgument = None,
    rule: Annotated[
        Literal["race", "best-score"],
        typer.Option("--rule", help="How the winner is chosen: by a race of the best, or as the best of all scores."),
    ] = "race",
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="K",
            help="Final runs, each with a fresh training seed; by default 5, or 3 with --rule best-score.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            metavar="D",
            help="Draws of the one observed label, each with K runs: the sweep's own, which decides, and D - 1 others.",
        ),
    ] = 1,
    race_runs: Annotated[
        int | None,
        typer.Option(
            "--race-runs",
            metavar="N",
            help="Most runs of candidates in the race; by default half of what the sweep took.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="W", help="Ray Train workers per run; by default one per GPU, or 1 on CPU."),
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours",
            metavar="H",
            help="Start no run that could bring race and final runs above this, and keep what the final runs take; "
            "CPU-hours if runs use no GPU.",
            show_default=False,
        ),
    ] = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    keep_weights: Annotated[
        bool,
        typer.Option("--keep-weights", help="Keep the weights of all K runs on disk, not only the first seed's."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Choose a sweep's winner, retrain it at full length, and decide on it.

    The best trials and the champion race on common fresh seeds; what that costs is printed first. The outcome decides:
    PROMOTE, KEEP, or REFUSE (exit code 1) if the two cannot be compared. Then winner and champion run with K further
    seeds, which choose nothing, and the test split is opened, once. With --rule best-score, the trial with the best
    score runs K times, and their mean decides and is reported.
    """
    if submitted(context, address):
        return
    from orchestrator.sweep_folder.index import find_sweep

    started = time.monotonic()
    # By default the latest search: the latest training is rarely what the user wants to promote.
    found = find_sweep(sweep, kinds={"sweep"} if sweep is None else {"sweep", "train"})
    from orchestrator.promotion import promote as promotion
    from orchestrator.sweep.options import DriveOptions

    options = DriveOptions(address, allow_changed, steal_lease)
    how: dict[str, Any] = {"draws": draws, "workers": workers, "keep_weights": keep_weights, "say": print_note}
    if max_gpu_hours is not None:
        how["max_gpu_hours"] = max_gpu_hours
    if seeds is not None:
        how["seeds"] = seeds
    if rule == "race":
        outcome = promotion.promote_by_rule(found, options, budget=race_runs, **how)
    elif race_runs is not None:
        raise UserError("--race-runs is for --rule race: with --rule best-score nothing races. Leave one of them out.")
    else:
        outcome = promotion.promote(found, options, **how)
    finish_promotion(outcome, options, started, json)


def finish_promotion(outcome: PromotionOutcome, options: DriveOptions, started: float, json: bool) -> None:
    """Print the outcome of a promotion and exit with its code."""
    plan, decision = outcome.plan, outcome.decision
    print_tracking_problem(plan.id, outcome.tracking_problem)
    if decision is None:
        print_note(f"{outcome.state.lower()}, {format_seconds(time.monotonic() - started)}")
        if outcome.state == "LIMITED":
            raise typer.Exit(EXIT_FAILURE)
        print_note(f"Resume with: {program()} {_resume_command(outcome)}{options.repeated_flags()}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if json:
        print_json(_describe(outcome, decision))
    else:
        _print_promotion(outcome, decision)
    if not outcome.reused and outcome.tracking_problem is None:
        add_report(plan.id)
    print_note(f"{_describe_end(outcome)}, {format_seconds(time.monotonic() - started)}")
    # REFUSE means that nothing was decided, which a script has to notice; KEEP is a result.
    if decision.verdict == "REFUSE":
        raise typer.Exit(EXIT_FAILURE)
    if outcome.version and not json:
        print_next(
            {
                f"evaluate {outcome.model}@champion": "on validation data",
                f"predict {outcome.model}@champion DIR": "score images",
            }
        )


def _describe_end(outcome: PromotionOutcome) -> str:
    if not outcome.reused:
        return "finished"
    todo = "what MLflow had lost is registered again" if outcome.restored else "nothing to do"
    return f"finished earlier, {todo}"


def _resume_command(outcome: PromotionOutcome) -> str:
    plan = outcome.plan
    if outcome.keep_weights == plan.keep_weights:
        return f"resume {plan.id}"
    # This call requested more than the plan says, so only repeating the same call keeps the weights.
    rule = " --rule best-score" if plan.choice is None else ""
    workers = plan.resources.workers if plan.choice is None else plan.choice.workers
    draws = f" --draws {plan.num_draws}" if plan.num_draws > 1 else ""
    return f"promote {plan.parent}{rule} --seeds {plan.num_seeds}{draws} --workers {workers} --keep-weights"


def _describe(outcome: PromotionOutcome, decision: Decision) -> dict[str, Any]:
    from orchestrator.results.opened_test import summarise_test

    plan, openings, report = outcome.plan, _find_openings(outcome), _make_report(outcome)
    return {
        "promotion": plan.id,
        "sweep": plan.parent,
        "metric": plan.protocol.metric,
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "rule": report.rule,
        "verdict": str(decision.verdict),
        "reason": decision.reason,
        "marks": list(decision.marks),
        "model": outcome.model,
        "version": outcome.version,
        "champion": outcome.champion,
        "config_file": str(outcome.config_file),
        "report": report.to_json(),
        "test": asdict(summarise_test(outcome.test, plan.num_seeds)),
        "test_openings": openings and openings.num,
        "spent": {part: asdict(spent) for part, spent in _split_spent(outcome).items()},
        "runs": [
            {
                "run": record.trial,
                "of": "winner" if record.trial < plan.num_final else "champion",
                "seed": record.params["loop.seed"],
                "draw": record.params.get("data.draw_seed", plan.base["data.draw_seed"]),
                "state": str(record.state),
                "value": record.value(plan.protocol),
                "epoch": record.chosen_epoch(plan.protocol),
                "test": dict(outcome.test.get(record.trial, {})),
            }
            for record in outcome.records
        ],
    }


def _make_report(outcome: PromotionOutcome) -> PromotionReport:
    from orchestrator.sweep_folder.promotion_report import make_report

    records = {record.trial: record for record in outcome.records}
    return make_report(outcome.plan, records, {str(trial): metrics for trial, metrics in outcome.test.items()})


def _find_openings(outcome: PromotionOutcome) -> TestOpenings | None:
    from orchestrator.results.opened_test import find_openings
    from orchestrator.tracking.reading import read_sweep

    return find_openings(read_sweep(outcome.plan.id)[1])


def _split_spent(outcome: PromotionOutcome) -> dict[str, Spent]:
    from orchestrator.results.promotion_spent import split_spent
    from orchestrator.tracking.reading import read_sweep

    return split_spent(outcome.plan, read_sweep(outcome.plan.id)[1])


def _print_promotion(outcome: PromotionOutcome, decision: Decision) -> None:
    from orchestrator.results.opened_test import summarise_test
    from orchestrator.results.promotion_spent import describe_spent
    from training.metric_names import TEST_MAP

    plan, described = outcome.plan, _describe(outcome, decision)
    print_line(f"{plan.id}: final runs of the winner of {plan.parent}, in percent, selected by {plan.protocol}")
    scores = summarise_test(outcome.test, plan.num_seeds)
    both, several = plan.num_trials > plan.num_final, plan.num_draws > 1
    metric = scores.metric or TEST_MAP
    rows = [
        (
            run["run"],
            *([run["draw"]] if several else []),
            run["seed"],
            run["state"],
            format_score(run["value"]),
            run["epoch"],
            format_score(run["test"].get(metric)),
            *([run["of"]] if both else []),
        )
        for run in described["runs"]
    ]
    headers = ["seed", "state", plan.protocol.metric, "epoch", metric, *(["of"] if both else [])]
    right = [0, 1, 2, 4, 5, 6] if several else [0, 1, 3, 4, 5]
    print_table(["run", *(["draw"] if several else []), *headers], rows, right=right)
    print_report(_make_report(outcome))
    print_line(f"{decision.verdict}: {decision.reason}")
    for mark in decision.marks:
        print_line(f"  note: {mark}")
    print_line(f"test: {scores}; opened after the decision, which it did not influence")
    if (openings := _find_openings(outcome)) is not None:
        print_line(str(openings))
    for line in describe_spent(_split_spent(outcome), plan.resources.hours_unit):
        print_line(line)
    if outcome.version:
        now = f"now {outcome.model}@champion"
        if outcome.champion != outcome.version:
            now = f"champion until {outcome.champion} took its place" if outcome.champion else "no longer champion"
        print_line(f"registered: {outcome.version}, the run of the first seed, {now}")
    print_line(f"settings of the winner, worth committing: {shlex.quote(str(outcome.config_file))}")
