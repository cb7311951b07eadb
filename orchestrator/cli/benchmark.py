"""The verb that compares methods under one budget: benchmark."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.completion import complete_suite
from orchestrator.cli.jobs import submitted
from orchestrator.cli.options import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AddressOption,
    AllowChangedOption,
    AllowMixedOption,
    DryRunOption,
    JsonOption,
    SetOption,
    StealLeaseOption,
)
from orchestrator.cli.output import print_json, print_line, print_next, print_note, print_table
from orchestrator.cli.suite import print_results
from orchestrator.cli.suite_page import SuitePageWriter
from orchestrator.cli.tracking import warn_of_mlflow
from orchestrator.durations import format_estimate, format_hours, format_seconds
from orchestrator.errors import UserError
from orchestrator.program import program
from training.counts import counted

if TYPE_CHECKING:
    from orchestrator.results.suite_record import SuiteRecord
    from orchestrator.suite.plan import CellPlan, SuiteRequest
    from orchestrator.sweep.options import DriveOptions


def benchmark(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="A shipped suite (digits, digits-full, paper, photos, spml) or a YAML file.",
            autocompletion=complete_suite,
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", metavar="A,B", help="Only these now; others than the suite's extend it.", show_default=False
        ),
    ] = None,
    datasets: Annotated[
        str | None, typer.Option("--datasets", metavar="A,B", help="Only these now.", show_default=False)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="N", help="Of each cell's search; by default the suite's.", show_default=False
        ),
    ] = None,
    budget_by: Annotated[
        Literal["images", "trials", "gpu-hours"] | None,
        typer.Option(
            "--budget-by",
            help="What the budget counts: images passed forward and backward, or, marked in the table, another unit.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="M", help="Fresh seeds to report; more than before adds them.", show_default=False
        ),
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours",
            metavar="H",
            help="Start no cell and no run that could bring the benchmark above this, with what the final seeds take; "
            "CPU-hours if runs use no GPU.",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    allow_mixed: AllowMixedOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Compare methods, each tuned with the same budget.

    Each cell, a method on a dataset, is a sweep, a race of its best trials and final runs on fresh seeds. The same
    command continues what was stopped, adds methods or seeds, and prints the table. A cell that fails does not stop the
    others; the exit code is then 1.
    """
    if submitted(context, address):
        return
    from orchestrator.cluster.size import count_machine
    from orchestrator.planning.request import parse_overrides
    from orchestrator.suite.plan import SuiteRequest, ask
    from orchestrator.sweep.options import DriveOptions
    from search_spaces.suite import load_suite

    started = time.monotonic()
    machine = count_machine(address)
    request = SuiteRequest(
        methods=_split("--methods", methods),
        datasets=_split("--datasets", datasets),
        budget=budget,
        budget_by=budget_by,
        seeds=seeds,
        settings=parse_overrides(settings or []),
        num_cpus=machine.get("num_cpus"),
        num_gpus=machine.get("num_gpus"),
        max_gpu_hours=max_gpu_hours,
    )
    asked = ask(load_suite(suite), request)
    options = DriveOptions(address, allow_changed, steal_lease)
    run_benchmark(asked, request, options, started, allow_mixed=allow_mixed, dry_run=dry_run, json=json)


def _split(flag: str, words: str | None) -> tuple[str, ...] | None:
    if words is None:
        return None
    found = tuple(word.strip() for word in words.split(",") if word.strip())
    if not found:
        raise UserError(f"{flag} must be names separated by commas, but got {flag}={words!r}.")
    return found


def run_benchmark(
    asked: SuiteRecord,
    request: SuiteRequest,
    options: DriveOptions,
    started: float,
    *,
    allow_mixed: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Register what is asked for, run it, print the table, and exit with its code."""
    from orchestrator.results.suite_record import keep_limit, register
    from orchestrator.suite.plan import plan_cells
    from orchestrator.suite.run import check_cells, require_one_cell, run_suite

    asked = keep_limit(asked)
    cells = plan_cells(asked, request)
    if dry_run:
        _show_plan(asked, cells, json)
        require_one_cell(asked, cells)
        return
    require_one_cell(asked, cells)
    check_cells(cells, options)
    record = register(asked)
    for line in _describe(asked, cells):
        print_note(line)
    warn_of_mlflow()
    page = SuitePageWriter(record.id)
    outcome = run_suite(record, cells, options, say=print_note, show=page.show)
    if outcome.state == "INTERRUPTED":
        print_note(f"interrupted, {format_seconds(time.monotonic() - started)}")
        print_note(f"Resume with: {program()} resume {record.id}{options.repeated_flags()}")
        page.end()
        raise typer.Exit(EXIT_INTERRUPTED)
    page.end()
    print_results(record.id, allow_mixed=allow_mixed, json=json)
    print_note(f"finished, {format_seconds(time.monotonic() - started)}")
    for (dataset, method), why in outcome.failed.items():
        print_note(f"{method} on {dataset} failed: {why}")
    if outcome.limited:
        print_note(
            f"{len(outcome.limited)} of {counted(len(outcome.keys), 'cell')} did not fit below the limit of "
            f"{record.max_gpu_hours:g} GPU-hours. The same command with a higher --max-gpu-hours continues them."
        )
    if outcome.failed:
        print_note(
            f"{len(outcome.failed)} of {counted(len(outcome.keys), 'cell')} failed. The same command tries them again."
        )
    if outcome.failed or outcome.limited:
        raise typer.Exit(EXIT_FAILURE)
    if not json:
        print_next(
            {
                f"report {record.id}": "a page of it",
                f"browse {record.id}": "see it in MLflow",
                f"audit {record.id}": "check that the figures hold",
            }
        )


def resume_benchmark(suite_id: str, options: DriveOptions, started: float, *, json: bool) -> None:
    """Continue a benchmark as it was asked for last, and exit with its code."""
    from orchestrator.cluster.size import count_machine
    from orchestrator.results.suite_record import read_record
    from orchestrator.suite.plan import SuiteRequest

    machine = count_machine(options.address)
    request = SuiteRequest(num_cpus=machine.get("num_cpus"), num_gpus=machine.get("num_gpus"))
    run_benchmark(read_record(suite_id), request, options, started, json=json)


def _show_plan(record: SuiteRecord, cells: list[CellPlan], json: bool) -> None:
    if json:
        print_json(
            {
                "suite": record.id,
                "budget": vars(record.budget),
                "seeds": record.seeds,
                "max_gpu_hours": record.max_gpu_hours,
                "cells": [
                    {
                        "dataset": cell.plan.dataset,
                        "method": cell.plan.method,
                        "trials": cell.plan.num_trials,
                        "images_per_trial": cell.images.total,
                        "images_forward": cell.images.forward,
                        "images_backward": cell.images.backward,
                        "budget": cell.amount,
                        "hours": cell.hours,
                    }
                    for cell in cells
                ],
            }
        )
        return
    for line in _describe(record, cells):
        print_line(line)
    headers = ["dataset", "method", "trials", "images a trial", "budget used", "search"]
    rows = []
    for cell in cells:
        plan = cell.plan
        used = plan.num_trials * cell.images.total / cell.amount if record.budget.by == "images" else None
        epoch_s = plan.epoch_s
        time_s = None if epoch_s is None else plan.num_trials * plan.epochs * epoch_s / plan.concurrency
        rows.append(
            (
                plan.dataset,
                plan.method,
                plan.num_trials,
                f"{cell.images.total:,}",
                "" if used is None else f"{used:.1%}",
                "" if time_s is None else f"about {format_estimate(time_s)}",
            )
        )
    print_table(headers, rows, right=[2, 3, 4])


def _describe_hours(record: SuiteRecord, cells: list[CellPlan]) -> list[str]:
    """Return a line about the hours of all cells that are to run, and one about the limit, if there is one."""
    unit = cells[0].plan.resources.hours_unit
    known = [cell.hours for cell in cells if cell.hours is not None]
    lines = []
    if len(known) == len(cells) and all(cell.plan.resources.hours_unit == unit for cell in cells):
        lines.append(f"  cost       at most about {format_hours(sum(known))} {unit}, race and report included")
    if record.max_gpu_hours is not None:
        lines.append(
            f"  limit      {record.max_gpu_hours:g} {unit}, of which a cell keeps what its race and report take"
        )
    return lines


def _describe(record: SuiteRecord, cells: list[CellPlan]) -> list[str]:
    """Return the settings of a benchmark, as it prints them before it starts."""
    from orchestrator.results.suite_record import describe_contrasts

    plan = cells[0].plan
    race = f"at most {record.race_frac:.0%} of the search's cost" if record.race_frac else "none"
    fixed = ", ".join(f"{key}={value}" for key, value in record.settings.items())
    amounts = {cell.plan.dataset: cell.amount for cell in cells}
    images = "; ".join(f"{amount:,.0f} images a method on {dataset}" for dataset, amount in amounts.items())
    bounds = f" and {counted(len(record.bounds), 'bound')}" if record.bounds else ""
    lines = [
        f"{record.id}: {counted(len(cells), 'cell')}, {counted(len(record.methods), 'method')}{bounds} "
        f"on {', '.join(record.spaces)}",
        f"  budget     {record.budget}" + (f" ({images})" if record.budget.by == "images" else ""),
        f"  trials     {plan.epochs} epochs, {plan.sampler}, seed {plan.search_seed}, scheduler {plan.scheduler}, "
        f"{plan.concurrency} at a time",
        f"  selection  {plan.protocol}",
        f"  race       {race}",
        f"  report     {record.seeds} fresh seeds, the same for all methods",
        f"  contrasts  {describe_contrasts(record)}",
        *_describe_hours(record, cells),
    ]
    return lines + ([f"  fixed      {fixed}"] if fixed else [])
