"""The verbs that start something: plan, sweep, train, ablate."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import complete_space
from orchestrator.cli.jobs import submitted
from orchestrator.cli.options import (
    AddressOption,
    BackupOption,
    ConcurrencyOption,
    DryRunOption,
    EpochsOption,
    FormerBackupOption,
    JsonOption,
    LearnOption,
    MaxHoursOption,
    MethodOption,
    MinGainOption,
    NameOption,
    PriceOption,
    ProbeOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SpaceArgument,
    StartupOption,
    StorageOption,
    TrialsOption,
    check_places,
)
from orchestrator.cli.outcome import finish_sweep
from orchestrator.cli.output import print_line, print_note, wrap_words
from orchestrator.cli.tracking import warn_of_mlflow
from orchestrator.errors import UserError
from orchestrator.program import program

_NO_STORAGE = (
    "the backup holds the journal, but without --storage checkpoints stay on this machine. If it is lost, running "
    "trials start over."
)

NOISE = "noise"
"""The word for the deviation between seeds in --min-gain."""

if TYPE_CHECKING:
    from orchestrator.planning.request import PlanRequest
    from orchestrator.planning.sweep_plan import SweepPlan
    from training.config.run import Scalar


def plan(
    context: typer.Context,
    space: SpaceArgument,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    startup_trials: StartupOption = None,
    learn_from: LearnOption = None,
    concurrency: ConcurrencyOption = None,
    seed: SeedOption = None,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    max_gpu_hours: MaxHoursOption = None,
    min_gain: MinGainOption = None,
    price_per_gpu_hour: PriceOption = None,
    probe: ProbeOption = False,
    json: JsonOption = False,
) -> None:
    """Show what a sweep would run.

    Shows how many trials, for how long, with which settings, and why. Does not start or write anything.
    """
    # The options of `plan` are some of those of `sweep`, under the same names.
    sweep(context, **context.params, dry_run=True)


def sweep(
    context: typer.Context,
    space: SpaceArgument,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    startup_trials: StartupOption = None,
    learn_from: LearnOption = None,
    concurrency: ConcurrencyOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    backup: BackupOption = None,
    mirror: FormerBackupOption = None,
    dry_run: DryRunOption = False,
    max_gpu_hours: MaxHoursOption = None,
    min_gain: MinGainOption = None,
    price_per_gpu_hour: PriceOption = None,
    probe: ProbeOption = False,
    json: JsonOption = False,
) -> None:
    """Search a space and rank its trials.

    Trials run on Ray and are logged to MLflow. Ctrl-C stops the sweep; `resume` continues it.
    """
    if submitted(context, address):
        return
    from orchestrator.cluster.size import count_machine
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.request import PlanRequest

    started = time.monotonic()
    backup = check_places(storage, backup, mirror)
    # The plan must fit the cluster, not the user's own machine.
    machine = count_machine(address)
    request = PlanRequest(
        space,
        method=method,
        recipe=recipe,
        trials=trials,
        epochs=epochs,
        startup_trials=startup_trials,
        concurrency=concurrency,
        seed=seed,
        overrides=_parse_settings(settings),
        learned=_read_points(learn_from),
        name=_require_free_name(name),
        storage=storage,
        num_cpus=machine.get("num_cpus"),
        num_gpus=machine.get("num_gpus"),
        max_gpu_hours=max_gpu_hours,
        min_gain=_read_points_of_gain(min_gain),
    )
    planned = _add_cost(make_plan(request), request, address, price=price_per_gpu_hour, probe=probe)
    if min_gain == NOISE:
        planned = _end_below_noise(planned)
    if dry_run:
        _show_plan(planned, address, json)
    else:
        _run(planned, address, started, json, backup)


def train(
    context: typer.Context,
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="SPACE",
            help="Trains its first start_from point, or its published settings.",
            show_default=False,
            autocompletion=complete_space,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|RUN",
            help="A YAML file of settings, an MLflow run id, or SWEEP/TRIAL.",
            show_default=False,
        ),
    ] = None,
    epochs: EpochsOption = None,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Train once, without a search."""
    if submitted(context, address):
        return
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.request import PlanRequest
    from orchestrator.results.former_run import plan_rerun

    started = time.monotonic()
    check_places(storage, None)
    # Neither or both.
    if (space is None) == (source is None):
        got = "neither" if space is None else "both"
        raise UserError(f"train needs either SPACE or --from, but got {got}. For example: {program()} train digits")
    for flag, value, what in (("--method", method, "method"), ("--recipe", recipe, "recipe")):
        if source is not None and value is not None:
            raise UserError(
                f"{flag} goes with SPACE; the settings that --from names have their own {what}. Leave {flag} out."
            )
    request = PlanRequest(
        space,
        kind="train",
        source=source,
        method=method,
        recipe=recipe,
        epochs=epochs,
        overrides=_parse_settings(settings),
        name=_require_free_name(name),
        storage=storage,
    )
    planned = _add_cost(make_plan(request) if source is None else plan_rerun(request), request, address)
    if dry_run:
        _show_plan(planned, address, json)
    else:
        _run(planned, address, started, json)


def ablate(
    context: typer.Context,
    space: SpaceArgument,
    method: MethodOption = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Training seeds per variant.")] = 3,
    epochs: EpochsOption = None,
    concurrency: ConcurrencyOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    max_gpu_hours: MaxHoursOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Measure what each part of a method contributes.

    Trains the complete method at its first start_from point, and each variant that leaves a part out (for example
    ignore_without_reg), with K seeds each. Scores are measured on validation data. Without true labels, the variants
    that need them are left out.
    """
    if submitted(context, address):
        return
    from orchestrator.cluster.size import count_machine
    from orchestrator.planning.data_fit import leave_out_oracles
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.request import PlanRequest

    started = time.monotonic()
    check_places(storage, None)
    machine = count_machine(address)
    request = PlanRequest(
        space,
        kind="ablate",
        method=method,
        seeds=seeds,
        epochs=epochs,
        concurrency=concurrency,
        overrides=_parse_settings(settings),
        name=_require_free_name(name),
        storage=storage,
        num_cpus=machine.get("num_cpus"),
        num_gpus=machine.get("num_gpus"),
        max_gpu_hours=max_gpu_hours,
    )
    planned = _add_cost(leave_out_oracles(make_plan(request)), request, address)
    if dry_run:
        _show_plan(planned, address, json)
    else:
        _run(planned, address, started, json)


def _parse_settings(settings: list[str] | None) -> dict[str, Scalar]:
    from orchestrator.planning.request import parse_overrides

    return parse_overrides(settings or [])


def _read_points(names: list[str] | None) -> tuple[dict[str, Scalar], ...]:
    from orchestrator.results.earlier_points import rank_earlier_points

    return rank_earlier_points(names) if names else ()


def _read_points_of_gain(text: str | None) -> float | None:
    if text in (None, NOISE):
        return None
    with suppress(ValueError):
        return float(str(text))
    raise UserError(f"--min-gain must be a number of points, or {NOISE}, but got --min-gain={text}.")


def _end_below_noise(planned: SweepPlan) -> SweepPlan:
    from orchestrator.planning.min_gain import end_below
    from orchestrator.promotion.noise import know_deviation

    deviation, known_from = know_deviation(planned)
    note = f"--min-gain {NOISE}: {deviation:.2g} points, the deviation between seeds in {known_from}"
    return replace(end_below(planned, deviation), notes=(*planned.notes, note))


def _require_free_name(name: str | None) -> str | None:
    from orchestrator.sweep_folder.index import require_free_name

    return None if name is None else require_free_name(name)


def _add_cost(
    planned: SweepPlan, request: PlanRequest, address: str | None, *, price: float | None = None, probe: bool = False
) -> SweepPlan:
    from orchestrator.planning.capacity import count_slots
    from orchestrator.planning.cost import Reserve
    from orchestrator.results.champion import expect_champion
    from orchestrator.results.timings import add_cost, probe_plan

    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price-per-gpu-hour must be a number of at least 0, but got {price:g}.")
    probed = None
    if probe:
        from orchestrator.planning.data_fit import check_data
        from orchestrator.planning.model_fit import check_model

        check_model(planned)
        check_data(planned)
        print_note(f"taking steps of {planned.method} on this machine ...")
        probed = probe_plan(planned)
    if request.max_gpu_hours is not None and planned.kind == "sweep":
        planned = replace(planned, reserve=Reserve(with_champion=expect_champion(planned.dataset, print_note)))
    slots = count_slots(planned.resources, request)
    return add_cost(planned, slots, probed=probed, price_per_hour=price, here=address is None)


def _show_plan(planned: SweepPlan, address: str | None, json: bool) -> None:
    from orchestrator.planning.data_fit import check_name
    from orchestrator.planning.model_fit import check_model
    from orchestrator.planning.page import render_plan
    from orchestrator.planning.start_check import require_startable
    from orchestrator.trials.limit import require_enough_hours

    # What no machine could run is not worth a page.
    check_model(planned)
    check_name(planned)
    if json:
        print(planned.to_json(), end="")
    else:
        for line in render_plan(planned):
            print_line(line)
    # Last, because a plan is useful before the data is prepared, and on a machine without the GPUs.
    require_enough_hours(planned)
    require_startable(planned, address)


def _run(planned: SweepPlan, address: str | None, started: float, json: bool, backup: str | None = None) -> None:
    from orchestrator.planning.start_check import require_startable
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.trials.limit import require_enough_hours

    # Checked before Ray starts, so that a missing dataset or GPU is reported at once.
    require_enough_hours(planned)
    require_startable(planned, address)
    for note in planned.notes:
        print_note(wrap_words(f"note: {note}", sys.stderr))
    if backup is not None and planned.storage is None:
        print_note(wrap_words(f"note: {_NO_STORAGE}", sys.stderr))
    warn_of_mlflow()
    # A new sweep has no lease and no former state, so the other options stay at their defaults.
    options = DriveOptions(address, backup=backup)
    finish_sweep(run_sweep(planned, options), options, started, json)
