"""Turns a request into a plan for a sweep, one training, or an ablation. Nothing is started or written.

An id is drawn and the clock is read; everything else follows from the request.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from orchestrator.datasets.prepared import with_store
from orchestrator.errors import UserError
from orchestrator.home import make_sweep_id
from orchestrator.planning.capacity import count_slots
from orchestrator.planning.estimate import Timing, estimate_cost
from orchestrator.planning.learned_points import fit_points
from orchestrator.planning.min_gain import end_below
from orchestrator.planning.page import make_notes
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.settings import Settings, merge_settings
from orchestrator.planning.space_keys import change_sections
from orchestrator.planning.sweep_plan import Kind, Params, Resources, SweepPlan, count_points
from orchestrator.uris import require_safe_uri, require_text_without_credentials
from search_spaces.blocks import Sampler
from search_spaces.schema import SearchSpace
from training.config.spelling import listed
from training.selection import SelectBy

# Epochs with rejection that a trial gets before pruning may stop it.
_EPOCHS_AFTER_WARMUP = 2
_SCREEN_AT = 0.3
"""Share of the epochs after which the screen compares trials, and how many of them it keeps: on four recorded sweeps it
lost nothing so (``benchmarks/results/search_recorded.md``)."""
_SCREEN_KEEPS = 0.5


def make_plan(request: PlanRequest) -> SweepPlan:
    """Plan what a user asked for, from a search space.

    :func:`orchestrator.planning.follow_up.make_rerun_plan` plans a training of given settings.

    Raises:
        SpaceError: The search space is invalid.
        UserError: A flag is wrong, or the method to ablate has no variants.
    """
    request.check_counts()
    space, overrides = change_sections(request.load_space(), request.overrides)
    settings = merge_settings(space, request.method, request.epochs, overrides, request.recipe)
    # A promotion is planned from a finished sweep, not from a request.
    makers = {"sweep": _plan_sweep, "train": _plan_training, "ablate": _plan_ablation}
    return makers[request.kind](request, space, settings)


def make_identity(kind: Kind, name: str) -> dict[str, Any]:
    """Return the fields that identify a plan: a fresh id, its name, kind and time."""
    return {"id": make_sweep_id(name), "name": name, "kind": kind, "created": time.time()}


def require_settings_without_credentials(settings: Params) -> Params:
    """Return settings after checking that none contains credentials: plans and MLflow show them.

    Raises:
        UserError: A setting is a URI with a user name, a password or a key.
    """
    for key, value in settings.items():
        if isinstance(value, str):
            require_safe_uri(key, value)
    return settings


def _plan_sweep(request: PlanRequest, space: SearchSpace, settings: Settings) -> SweepPlan:
    # That protocol compares nothing, so there is nothing to search.
    if settings.protocol.select_config_by is SelectBy.PUBLISHED:
        settings = settings.at_first_point()
    slots = count_slots(Resources(**dict(space.resources)), request)
    sampler: Sampler = "grid" if settings.published else space.search.sampler
    num_trials = _decide_num_trials(space, settings, sampler, request.trials)
    grace_epochs = settings.epochs if settings.published else _decide_grace(space, settings)
    budget, search = space.budget, space.search
    learned = fit_points(request.learned, settings, sampler)
    plan = replace(
        _plan_one_trial(request, space, settings),
        ranges=settings.ranges,
        acts_when=settings.acts_when,
        # A grid visits every point anyway, so start points are of no use.
        start_from=() if sampler == "grid" and settings.ranges else (*settings.start_from, *learned),
        num_trials=num_trials,
        concurrency=min(num_trials, request.concurrency or slots),
        sampler=sampler,
        search_seed=search.seed if request.seed is None else request.seed,
        startup_trials=budget.startup_trials if request.startup_trials is None else request.startup_trials,
        startup=search.startup,
        # Stopping a trial at its last epoch would save nothing.
        scheduler="none" if grace_epochs >= settings.epochs else space.scheduler.name,
        grace_epochs=grace_epochs,
        reduction_factor=space.scheduler.reduction_factor,
        keep=space.scheduler.keep or math.ceil(_SCREEN_KEEPS * num_trials),
    )
    if request.min_gain is not None:
        plan = end_below(plan, request.min_gain)
    elif space.budget.min_gain is not None and not settings.published:
        plan = _end_below(plan, space.budget.min_gain, space)
    return _finish(plan, space, settings, slots, len(learned))


def _end_below(plan: SweepPlan, points: float, space: SearchSpace) -> SweepPlan:
    try:
        return end_below(plan, points)
    except UserError as error:
        raise space.error(("budget", "min_gain"), f"budget.min_gain: {error}") from None


def _plan_training(request: PlanRequest, space: SearchSpace, settings: Settings) -> SweepPlan:
    settings = settings.at_first_point()
    return _finish(_plan_one_trial(request, space, settings), space, settings, 1)


def _plan_ablation(request: PlanRequest, space: SearchSpace, settings: Settings) -> SweepPlan:
    settings = settings.at_first_point()
    # The unchanged method comes first; the table compares all others with it.
    changes = {settings.method: Params()} | _find_variants(space, settings)
    if len(changes) == 1:
        raise UserError(
            f"{space.source} has no variants of {settings.method} to compare it with. A variant is a method block "
            f"whose label starts with the method's, such as {settings.method}_without_..."
        )
    first, seeds = int(settings.base["loop.seed"] or 0), range(request.seeds)
    num_trials = len(changes) * len(seeds)
    slots = count_slots(Resources(**dict(space.resources)), request)
    plan = replace(
        _plan_one_trial(request, space, settings),
        variants=tuple(changes),
        start_from=tuple({**changed, "loop.seed": first + seed} for changed in changes.values() for seed in seeds),
        num_trials=num_trials,
        concurrency=min(num_trials, request.concurrency or slots),
    )
    return _finish(plan, space, settings, slots)


def _finish(plan: SweepPlan, space: SearchSpace, settings: Settings, slots: int, num_learned: int = 0) -> SweepPlan:
    """Add what follows from the rest of a plan: its cost, as far as the space tells it, and its notes."""
    if (timing := Timing.of_space(plan)) is not None:
        plan = replace(plan, cost=estimate_cost(plan, timing, slots))
    notes = make_notes(plan, space, slots, settings.largest_warmup(), num_learned)
    return replace(plan, notes=(*notes, *_describe_inactive(settings)) if plan.kind == "sweep" else notes)


def _describe_inactive(settings: Settings) -> list[str]:
    """Return notes about ranges and start points that have no effect, in no trial or in some."""
    notes = [
        f"{key} is not searched: it has no effect with {other}={settings.base[other]}"
        for key, other in settings.inactive.items()
        if other in settings.overridden
    ]
    notes += [
        f"{key} has no effect in trials {why}, so they go without it"
        for key, why in settings.sometimes_inactive.items()
    ]
    return notes + [
        f"start point {index} gives {listed(keys)} without effect: left out"
        for index, keys in settings.idle_in_start.items()
    ]


def _plan_one_trial(request: PlanRequest, space: SearchSpace, settings: Settings) -> SweepPlan:
    """Plan one trial of the base settings; kinds with more trials replace some fields."""
    name = request.choose_name(space.name)
    searched = {key for block in (space.shared, space.methods[settings.method]) for key in block.ranges}
    # The whole file is stored with the plan, comments included.
    require_text_without_credentials(space.source, space.file_text, "plans and journals")
    # The measured time applies to the space's own settings; an epoch costs the same whatever the run's length and seed.
    as_measured = settings.overridden <= searched | {"loop.epochs", "loop.seed"}
    return SweepPlan(
        **make_identity(request.kind, name),
        space=space.reference,
        space_text=space.text,
        dataset=space.dataset,
        method=settings.method,
        base=require_settings_without_credentials(with_store(settings.base)),
        protocol=settings.protocol,
        resources=Resources(**dict(space.resources)),
        storage=request.storage_uri,
        cap_gib=space.budget.cap_gib,
        time_limit_s=space.budget.time_limit_s,
        max_gpu_hours=request.max_gpu_hours,
        epoch_s=space.methods[settings.method].epoch_s if as_measured and not settings.published else None,
    )


def _find_variants(space: SearchSpace, settings: Settings) -> dict[str, Params]:
    """Return label -> the settings in which a variant differs from the method.

    Variants of ``ignore`` are the blocks of the same method whose label starts with ``ignore_``. Whatever ``--set``
    fixes is fixed for all of them, so it is not a difference.
    """
    variants = {}
    for label, block in space.methods.items():
        if label.startswith(f"{settings.method}_") and (block.name or label) == settings.base["method.name"]:
            own = {key: merge_settings(space, label).base[key] for key in block.fixed if key not in settings.overridden}
            variants[label] = {key: value for key, value in own.items() if value != settings.base[key]}
    return {label: changed for label, changed in variants.items() if changed}


def _decide_num_trials(space: SearchSpace, settings: Settings, sampler: Sampler, asked: int | None) -> int:
    points = count_points(settings.ranges, sampler, settings.acts_when)
    # Only a grid runs out of points.
    if points is None:
        return asked or space.budget.trials
    if asked is not None and asked > points:
        hint = " Nothing is left to search. Use: orchestrator train" if points == 1 else ""
        raise UserError(
            f"--trials must be at most {points}, the number of different points, but got --trials={asked}.{hint}"
        )
    return min(points, asked or (points if settings.published else space.budget.trials))


def _decide_grace(space: SearchSpace, settings: Settings) -> int:
    """Return the epochs that every trial gets before pruning.

    ASHA stops no trial in its warm-up, which says nothing about its method. The screen keeps so many trials that it may
    compare them earlier; :func:`make_notes` says if some are in their warm-up then.
    """
    warmup_epochs = settings.largest_warmup()
    asked, least = space.scheduler.grace_epochs, warmup_epochs + _EPOCHS_AFTER_WARMUP
    if asked is None:
        return max(1, round(_SCREEN_AT * settings.epochs)) if space.scheduler.name == "screen" else least
    if warmup_epochs and asked < least and space.scheduler.name != "screen":
        raise space.error(
            ("scheduler", "grace_epochs"),
            f"scheduler.grace_epochs must be at least {least}, but got {asked}: the largest warm-up is {warmup_epochs} "
            f"epochs, and a trial that is stopped before it rejects labels says nothing about the method. Raise it, or "
            f"make it null.",
        )
    return asked
