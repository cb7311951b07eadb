"""The verbs that plan and run: plan, sweep, resume, extend, train."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.models import finish_promotion
from orchestrator.cli.options import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AddressOption,
    AllowChangedOption,
    BackupOption,
    ConcurrencyOption,
    DryRunOption,
    EpochsOption,
    FormerBackupOption,
    JsonOption,
    MethodOption,
    NameOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SpaceArgument,
    StartupOption,
    StealLeaseOption,
    StorageOption,
    SweepArgument,
    TrialsOption,
)
from orchestrator.cli.output import print_line, print_next, print_note, print_tracking_problem, program, wrap_words
from orchestrator.cli.results import read_sweep, show_leaderboard
from orchestrator.durations import format_seconds
from orchestrator.errors import UserError

MAX_ROWS = 20
_NO_STORAGE = (
    "the backup has the journal, but checkpoints stay on this machine without --storage: were it lost, "
    "running trials would begin anew."
)

if TYPE_CHECKING:
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.sweep.driver import SweepOutcome


def plan(
    space: SpaceArgument,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    startup_trials: StartupOption = None,
    concurrency: ConcurrencyOption = None,
    seed: SeedOption = None,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    json: JsonOption = False,
) -> None:
    """Print what a sweep would run.

    And for how long, and why so. Nothing is started or written.
    """
    sweep(
        space,
        trials=trials,
        epochs=epochs,
        startup_trials=startup_trials,
        concurrency=concurrency,
        seed=seed,
        method=method,
        recipe=recipe,
        settings=settings,
        name=name,
        storage=storage,
        dry_run=True,
        json=json,
    )


def sweep(
    space: SpaceArgument,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    startup_trials: StartupOption = None,
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
    json: JsonOption = False,
) -> None:
    """Search a space and rank its trials.

    They run on Ray and are logged to MLflow. Stopped by Ctrl-C, it says how to resume.
    """
    from orchestrator.cluster.size import count_cluster
    from orchestrator.home import require_free_name
    from orchestrator.planning.plan import make_plan, parse_overrides

    started = time.monotonic()
    backup = _check_places(storage, backup, mirror)
    planned = make_plan(
        space,
        method=method,
        recipe=recipe,
        trials=trials,
        epochs=epochs,
        startup_trials=startup_trials,
        concurrency=concurrency,
        seed=seed,
        overrides=parse_overrides(settings or []),
        name=None if name is None else require_free_name(name),
        storage=storage,
        **({} if address is None else count_cluster(address)),
    )
    if dry_run:
        _show_plan(planned, json)
    else:
        _run(planned, address, started, json, backup)


def resume(
    sweep: SweepArgument = None,
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    backup: Annotated[
        str | None,
        typer.Option(
            "--backup",
            metavar="URI",
            help="Copy the journal there from now on; by default where it was. Not a promotion's.",
        ),
    ] = None,
    mirror: FormerBackupOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URI", help="A backup: go on in a home that has nothing of the sweep.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Go on with what was stopped or killed.

    A sweep, a training, an ablation or a promotion; finished epochs are not run again.
    """
    from orchestrator.home import find_sweep

    started = time.monotonic()
    backup = _check_places(None, backup, mirror)
    if source is None:
        found = find_sweep(sweep)
    else:
        from orchestrator.sweep_folder.restore import restore_sweep
        from orchestrator.uris import absolute_uri

        found, copied = restore_sweep(absolute_uri(source), sweep, steal_lease=steal_lease, say=print_note)
        backup = backup or copied
    from orchestrator.planning.sweep_plan import load_plan
    from orchestrator.sweep.driver import resume as resume_sweep

    if load_plan(found).kind == "promote":
        if backup is not None:
            raise UserError(
                f"--backup must be of a sweep, or of a training or an ablation that is resumed, but {found} is a "
                f"promotion: what it "
                f"decides and registers is not in its journal alone. Leave --backup out; a promotion that is lost is "
                f"made again by "
                f"`orchestrator promote`."
            )
        from orchestrator.promotion.promote import resume_promotion

        resumed = resume_promotion(
            found, address=address, allow_changed=allow_changed, steal_lease=steal_lease, say=print_note
        )
        finish_promotion(resumed, started, json)
        return
    outcome = resume_sweep(found, address=address, allow_changed=allow_changed, steal_lease=steal_lease, backup=backup)
    _finish(outcome, started, json)


def extend(
    sweep: SweepArgument = None,
    *,
    trials: Annotated[str, typer.Option("--trials", metavar="+N", help="Trials to add.", show_default=False)],
    address: AddressOption = None,
    allow_changed: AllowChangedOption = False,
    steal_lease: StealLeaseOption = False,
    json: JsonOption = False,
) -> None:
    """Add trials to a sweep.

    What it has learnt so far is kept.
    """
    from orchestrator.home import find_sweep

    started = time.monotonic()
    found, increase = find_sweep(sweep, kinds={"sweep"}), _read_increase(trials)
    from orchestrator.sweep.driver import extend as extend_sweep

    _finish(
        extend_sweep(found, increase, address=address, allow_changed=allow_changed, steal_lease=steal_lease),
        started,
        json,
    )


def train(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="SPACE", help="Its first start_from point is run, or what is published.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|RUN",
            help="A YAML of settings, an MLflow run id, or SWEEP/TRIAL.",
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
    started = time.monotonic()
    _check_places(storage, None)
    planned = _make_train_plan(space, source, epochs, method, recipe, settings, name, storage)
    if dry_run:
        _show_plan(planned, json)
    else:
        _run(planned, address, started, json)


def ablate(
    space: SpaceArgument,
    method: MethodOption = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Training seeds of each variant.")] = 3,
    epochs: EpochsOption = None,
    concurrency: ConcurrencyOption = None,
    settings: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Tell what each part of a method is worth.

    It is trained at its first start_from point, whole and with what each of its variants (ignore_without_reg, say)
    leaves out, with K seeds each. The table is of validation data.
    """
    from orchestrator.cluster.size import count_cluster
    from orchestrator.home import require_free_name
    from orchestrator.planning.plan import make_ablation_plan, parse_overrides

    started = time.monotonic()
    _check_places(storage, None)
    planned = make_ablation_plan(
        space,
        method=method,
        seeds=seeds,
        epochs=epochs,
        concurrency=concurrency,
        overrides=parse_overrides(settings or []),
        name=None if name is None else require_free_name(name),
        storage=storage,
        **({} if address is None else count_cluster(address)),
    )
    if dry_run:
        _show_plan(planned, json)
    else:
        _run(planned, address, started, json)


def _make_train_plan(
    space: str | None,
    source: str | None,
    epochs: int | None,
    method: str | None,
    recipe: str | None,
    settings: list[str] | None,
    name: str | None,
    storage: str | None,
) -> SweepPlan:
    from orchestrator.home import require_free_name
    from orchestrator.planning.plan import make_train_plan, parse_overrides

    if (space is None) == (source is None):
        raise UserError("train must have SPACE or --from, one of them. For example: orchestrator train digits")
    if source is not None and method is not None:
        raise UserError("--method must go with SPACE: what --from names has its method. Leave --method out.")
    if source is not None and recipe is not None:
        raise UserError("--recipe must go with SPACE: what --from names has its recipe. Leave --recipe out.")
    overrides = parse_overrides(settings or [])
    name = None if name is None else require_free_name(name)
    if space is not None:
        return make_train_plan(
            space, method=method, epochs=epochs, overrides=overrides, recipe=recipe, name=name, storage=storage
        )
    from orchestrator.results.former_run import plan_rerun

    assert source is not None
    return plan_rerun(source, epochs=epochs, overrides=overrides, name=name, storage=storage)


def _show_plan(planned: SweepPlan, json: bool) -> None:
    from orchestrator.planning.data_fit import check_data
    from orchestrator.planning.page import render_plan

    if json:
        print(planned.to_json(), end="")
    else:
        for line in render_plan(planned):
            print_line(line)
    check_data(planned)  # after it: what would run is of use before the data are there


def _check_places(storage: str | None, backup: str | None, mirror: str | None = None) -> str | None:
    """Refuse places with credentials, and return the backup's as every machine would name it.

    Args:
        storage, backup: As given.
        mirror: The backup under the flag's former name.
    """
    from orchestrator.uris import absolute_uri, require_no_credentials

    if mirror is not None:
        print_note("note: --mirror is deprecated, use --backup.")
        if backup not in (None, mirror):
            raise UserError("--mirror is the former name of --backup: give only --backup.")
        backup = mirror
    require_no_credentials("--storage", storage)
    require_no_credentials("--backup", backup)
    return None if backup is None else absolute_uri(backup)


def _run(planned: SweepPlan, address: str | None, started: float, json: bool, backup: str | None = None) -> None:
    from orchestrator.planning.data_fit import check_data
    from orchestrator.sweep.driver import run_sweep

    check_data(planned)
    for note in planned.notes:
        print_note(wrap_words(f"note: {note}", sys.stderr))
    if backup is not None and planned.storage is None:
        print_note(wrap_words(f"note: {_NO_STORAGE}", sys.stderr))
    _finish(run_sweep(planned, address=address, backup=backup), started, json)


def _finish(outcome: SweepOutcome, started: float, json: bool) -> None:
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
        print_note(f"Resume with: {program()} resume {plan.id}")
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


def _read_increase(text: str) -> int:

    digits = text.removeprefix("+")
    if not digits.isdecimal() or int(digits) < 1:
        raise UserError(f"--trials must be how many to add, but got --trials={text}. For example: --trials +12")
    return int(digits)
