"""What will run: a search space and the flags of a command become a :class:`SweepPlan`. Nothing is started or written
here.

An id is drawn and the time is read; all else follows from the arguments.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.datasets.prepared import find_store, with_store
from orchestrator.errors import UserError
from orchestrator.home import check_name, clean_name, make_sweep_id
from orchestrator.planning.page import make_notes, make_rerun_notes
from orchestrator.planning.run_config import change_config, render_config
from orchestrator.planning.settings import Settings, merge_settings
from orchestrator.planning.sweep_plan import Kind, Params, Resources, Sampler, SweepPlan, count_points
from orchestrator.uris import require_no_credentials, require_text_without_credentials
from search_spaces.schema import SearchSpace, load_space
from training.config.run import Scalar
from training.selection import Protocol, SelectBy

# Epochs with rejection that a trial gets before it may be cut.
_EPOCHS_AFTER_WARMUP = 2
# Promoted runs have seeds that no trial of their sweep had.
_FIRST_FRESH_SEED = 1001
# So that "-promote" still fits.
_LONGEST_PROMOTED_NAME = 56


def make_plan(
    space: str | Path | SearchSpace,
    *,
    method: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    startup_trials: int | None = None,
    concurrency: int | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Scalar] | None = None,
    recipe: str | None = None,
    name: str | None = None,
    storage: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
) -> SweepPlan:
    """Plan a sweep.

    Args:
        space: A shipped name, a YAML file, or a space that is loaded already.
        method: Label of a method block; None is the space's default.
        trials, epochs, startup_trials: Instead of the space's budget.
        concurrency: Trials at a time; None is as many as CPUs and GPUs carry.
        seed: Of the search; the training seed is ``loop.seed``.
        overrides: ``--set``: dotted key -> value, text being read as YAML reads it. A searched key is fixed by it.
        recipe: ``common`` (or None): searched as the space says; ``published``: the method's published settings, or all
            of the grid from which its authors chose, to full length.
        name: Instead of the space's name. Whether it is free is for :func:`orchestrator.home.require_free_name`.
        storage: URI or folder under which checkpoints go; None is the sweep's own folder.
        num_cpus, num_gpus: What there is to run on; None is what this machine has.

    Raises:
        SpaceError: The space is at fault.
        UserError: A flag is at fault.
    """
    _check_least(1, {"--trials": trials, "--concurrency": concurrency})
    _check_least(0, {"--startup-trials": startup_trials, "--seed": seed})
    loaded = space if isinstance(space, SearchSpace) else load_space(space)
    settings = merge_settings(loaded, method, epochs, overrides, recipe)
    if settings.protocol.select_config_by is SelectBy.PUBLISHED:
        settings = settings.at_first_point()
    slots = _count_slots(Resources(**dict(loaded.resources)), num_cpus, num_gpus)
    sampler: Sampler = "grid" if settings.published else loaded.search.sampler
    num_trials = _decide_num_trials(loaded, settings, sampler, trials)
    grace_epochs = settings.epochs if settings.published else _decide_grace(loaded, settings)
    plan = replace(
        _plan_one_trial("sweep", loaded, settings, clean_name(loaded.name) if name is None else name, storage),
        ranges=settings.ranges,
        start_from=() if sampler == "grid" and settings.ranges else settings.start_from,
        num_trials=num_trials,
        concurrency=min(num_trials, concurrency or slots),
        sampler=sampler,
        search_seed=loaded.search.seed if seed is None else seed,
        startup_trials=loaded.budget.startup_trials if startup_trials is None else startup_trials,
        # A cut after the last epoch would cut nothing.
        scheduler="none" if grace_epochs >= settings.epochs else loaded.scheduler.name,
        grace_epochs=grace_epochs,
        reduction_factor=loaded.scheduler.reduction_factor,
    )
    return replace(plan, notes=make_notes(plan, loaded, slots, settings.largest_warmup()))


def make_train_plan(
    space: str | Path | SearchSpace,
    *,
    method: str | None = None,
    epochs: int | None = None,
    overrides: Mapping[str, Scalar] | None = None,
    recipe: str | None = None,
    name: str | None = None,
    storage: str | None = None,
) -> SweepPlan:
    """Plan one training without a search: the first ``start_from`` point of a space, or what is published.

    Args and raises: as :func:`make_plan`.
    """
    loaded = space if isinstance(space, SearchSpace) else load_space(space)
    settings = merge_settings(loaded, method, epochs, overrides, recipe).at_first_point()
    plan = _plan_one_trial(
        "train", loaded, settings, f"{clean_name(loaded.name)}-train" if name is None else name, storage
    )
    return replace(plan, notes=make_notes(plan, loaded, 1, settings.largest_warmup()))


def make_ablation_plan(
    space: str | Path | SearchSpace,
    *,
    method: str | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    concurrency: int | None = None,
    overrides: Mapping[str, Scalar] | None = None,
    name: str | None = None,
    storage: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
) -> SweepPlan:
    """Plan the runs of an ablation table: a method at its first start point, and with what each of its variants fixes.

    Variants of a method are the blocks of the same method whose label goes on from its own: ``ignore_without_reg`` is
    one of ``ignore``.

    Args:
        seeds: Training seeds of each, from ``loop.seed`` on.
        space, method, epochs, concurrency, overrides, name, storage, num_cpus, num_gpus: As for :func:`make_plan`.

    Raises:
        SpaceError: The space is at fault.
        UserError: A flag is at fault, or the method has no variant.
    """
    _check_least(1, {"--seeds": seeds, "--concurrency": concurrency})
    loaded = space if isinstance(space, SearchSpace) else load_space(space)
    settings = merge_settings(loaded, method, epochs, overrides).at_first_point()
    changes = {settings.method: Params()} | _find_variants(loaded, settings)
    if len(changes) == 1:
        raise UserError(
            f"--method must have variants in {loaded.source} (NAME_without_..., say), but {settings.method} has none."
        )
    first = int(settings.base["loop.seed"] or 0)
    slots = _count_slots(Resources(**dict(loaded.resources)), num_cpus, num_gpus)
    plan = replace(
        _plan_one_trial(
            "ablate", loaded, settings, f"{clean_name(loaded.name)}-ablate" if name is None else name, storage
        ),
        variants=tuple(changes),
        start_from=tuple(
            {**changed, "loop.seed": first + seed} for changed in changes.values() for seed in range(seeds)
        ),
        num_trials=len(changes) * seeds,
        concurrency=min(len(changes) * seeds, concurrency or slots),
    )
    return replace(plan, notes=make_notes(plan, loaded, slots, settings.largest_warmup()))


def make_rerun_plan(
    config: Mapping[str, Scalar],
    *,
    source: str,
    like: SweepPlan | None = None,
    parent: str | None = None,
    epochs: int | None = None,
    overrides: Mapping[str, Scalar] | None = None,
    name: str | None = None,
    storage: str | None = None,
) -> SweepPlan:
    """Plan one training of a given configuration: that of a file (:func:`orchestrator.planning.run_config.read_config`)
    or of a former run.

    Args:
        config: Settings under dotted keys.
        source: Where they come from, for people: a file, or ``SWEEP/TRIAL``.
        like: The plan of the former run; its method label, protocol and resources are kept.
        parent: The former run.
        epochs, overrides, name, storage: As for :func:`make_plan`.

    Raises:
        UserError: A flag is at fault.
    """
    # What the former run read may lie elsewhere, or on another machine; what is prepared here goes first.
    at_home = find_store(str(config["data.name"]))
    base = _without_credentials(
        change_config(config if at_home is None else {**config, "data.store": at_home}, overrides or {}, epochs)
    )
    dataset, select_epoch_by = str(base["data.name"]), SelectBy(str(base["loop.select_epoch_by"]))
    select_config_by = SelectBy.CLEAN_VAL if select_epoch_by is SelectBy.LAST else select_epoch_by
    plan = SweepPlan(
        **_identity("train", f"{dataset}-train" if name is None else name),
        space=source,
        space_text=render_config(base),
        dataset=dataset,
        method=like.method if like else str(base["method.name"]),
        base=base,
        protocol=Protocol(like.protocol.select_config_by if like else select_config_by, select_epoch_by),
        resources=replace(like.resources, workers=1) if like else Resources(),  # one trial in one actor
        storage=_storage_uri(storage),
        parent=parent,
    )
    return replace(plan, notes=make_rerun_notes(plan, int(config["loop.epochs"] or 0)))


def make_promotion_plan(
    plan: SweepPlan, params: Mapping[str, Scalar], *, seeds: int = 3, workers: int = 1, storage: str | None = None
) -> SweepPlan:
    """Plan the final runs of a sweep's winner: to full length, one per fresh training seed, one after the other.

    Args:
        plan: The sweep.
        params: The winner's.
        seeds: Number of runs.
        workers: Ray Train workers of a run; each takes what a worker of the sweep took.
        storage: As for :func:`make_plan`; None is the promotion's own folder.

    Raises:
        UserError: Fewer than one run or worker.
    """
    _check_least(1, {"--seeds": seeds, "--workers": workers})
    first = int(plan.base["loop.seed"] or 0) + _FIRST_FRESH_SEED
    gpus = plan.resources.gpus_per_worker
    return replace(
        plan,
        **_identity("promote", f"{plan.name[:_LONGEST_PROMOTED_NAME]}-promote"),
        ranges={},
        start_from=tuple({**params, "loop.seed": first + run} for run in range(seeds)),
        num_trials=seeds,
        concurrency=1,
        scheduler="none",
        # Two ranks do not share a GPU.
        resources=replace(plan.resources, workers=workers, gpus_per_worker=gpus if workers == 1 else math.ceil(gpus)),
        storage=_storage_uri(storage),
        notes=(),
        parent=plan.id,
        time_limit_s=None,
    )


def parse_overrides(assignments: Iterable[str]) -> dict[str, Scalar]:
    """Return what ``--set key=value ...`` says; values stay text until their key is known.

    Raises:
        UserError: No ``=``, no key or no value, a key twice, or a URI with credentials.
    """
    overrides: dict[str, Scalar] = {}
    for assignment in assignments:
        key, _, value = (part.strip() for part in assignment.partition("="))
        if not key or not value:
            raise UserError(f"--set must be key=value, but got --set {assignment!r}. For example: --set optim.lr=1e-3")
        require_no_credentials(f"--set {key}", value)
        if key in overrides:
            raise UserError(
                f"--set must name a key once, but got {key}={overrides[key]} and {key}={value}. Leave one out."
            )
        overrides[key] = value
    return overrides


def _plan_one_trial(kind: Kind, space: SearchSpace, settings: Settings, name: str, storage: str | None) -> SweepPlan:
    searched = {key for block in (space.shared, space.methods[settings.method]) for key in block.ranges}
    require_text_without_credentials(space.source, space.text, "plans and journals")
    # What was measured holds for the space's own settings only; neither length nor seed nor a searched key changes an
    # epoch's cost.
    as_measured = settings.overridden <= searched | {"loop.epochs", "loop.seed"}
    return SweepPlan(
        **_identity(kind, name),
        space=space.reference,
        space_text=space.text,
        dataset=space.dataset,
        method=settings.method,
        base=_without_credentials(with_store(settings.base)),
        protocol=settings.protocol,
        resources=Resources(**dict(space.resources)),
        storage=_storage_uri(storage),
        cap_gib=space.budget.cap_gib,
        time_limit_s=space.budget.time_limit_s,
        epoch_s=space.methods[settings.method].epoch_s if as_measured and not settings.published else None,
    )


def _without_credentials(base: Params) -> Params:
    """Return settings none of which is a URI with credentials: they are kept in plans, and shown by MLflow."""
    for key, value in base.items():
        if isinstance(value, str):
            require_no_credentials(key, value)
    return base


def _find_variants(space: SearchSpace, settings: Settings) -> dict[str, Params]:
    """Return what the variants of a method fix that it has otherwise, but for what ``--set`` fixes for all of them."""
    variants = {}
    for label, block in space.methods.items():
        if label.startswith(f"{settings.method}_") and (block.name or label) == settings.base["method.name"]:
            changed = {
                key: merge_settings(space, label).base[key] for key in block.fixed if key not in settings.overridden
            }
            variants[label] = {key: value for key, value in changed.items() if value != settings.base[key]}
    return {label: changed for label, changed in variants.items() if changed}


def _identity(kind: Kind, name: str) -> dict[str, Any]:
    return {"id": make_sweep_id(check_name(name)), "name": name, "kind": kind, "created": time.time()}


def _decide_num_trials(space: SearchSpace, settings: Settings, sampler: Sampler, asked: int | None) -> int:
    points = count_points(settings.ranges, sampler)
    if points is None:
        return asked or space.budget.trials
    if asked is not None and asked > points:
        hint = " Nothing is left to search: orchestrator train." if points == 1 else ""
        raise UserError(
            f"--trials must be at most {points}, the number of different points there are, but got "
            f"--trials={asked}.{hint}"
        )
    return min(points, asked or (points if settings.published else space.budget.trials))


def _decide_grace(space: SearchSpace, settings: Settings) -> int:
    """Return the epochs that every trial gets: before its warm-up is over, the method under test does not exist."""
    warmup_epochs = settings.largest_warmup()
    asked = space.scheduler.grace_epochs
    if asked is None:
        return warmup_epochs + _EPOCHS_AFTER_WARMUP
    if warmup_epochs and asked < warmup_epochs + _EPOCHS_AFTER_WARMUP:
        raise space.error(
            ("scheduler", "grace_epochs"),
            f"scheduler.grace_epochs must be at least {warmup_epochs + _EPOCHS_AFTER_WARMUP}, but got {asked}: the "
            f"largest warm-up is "
            f"{warmup_epochs} epochs, and before the first rejections the method under test does not exist. Raise it, "
            f"or make it null.",
        )
    return asked


def _check_least(least: int, flags: Mapping[str, int | None]) -> None:
    for flag, value in flags.items():
        if value is not None and value < least:
            raise UserError(f"{flag} must be at least {least}, but got {flag}={value}.")


def _storage_uri(storage: str | None) -> str | None:
    if storage is None:
        return None
    if "://" not in storage:
        return str(Path(storage).expanduser().absolute())  # a resume may start in another folder
    require_no_credentials("--storage", storage)
    return storage


def _count_slots(resources: Resources, num_cpus: int | None, num_gpus: int | None) -> int:
    """Return how many trials the machine carries at a time, at least one."""
    num_cpus = len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus
    slots = num_cpus // (resources.workers * resources.cpus_per_worker)
    if resources.gpus_per_worker:
        num_gpus = _count_gpus() if num_gpus is None else num_gpus
        slots = min(slots, int(num_gpus / (resources.workers * resources.gpus_per_worker)))
    return max(1, slots)


def _count_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
