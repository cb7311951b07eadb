"""Plans that continue earlier work: final runs of a sweep's winner, and another training with given settings."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.datasets.prepared import find_store
from orchestrator.home import check_name
from orchestrator.planning.choice import Choice
from orchestrator.planning.page import make_rerun_notes
from orchestrator.planning.plan import make_identity, require_settings_without_credentials
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.run_config import change_config, render_config
from orchestrator.planning.space_keys import change_resources
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from search_spaces.blocks import ResourcesBlock
from training.config.run import Scalar
from training.selection import Protocol, SelectBy

# Far from the seeds of a sweep's trials, so that promoted runs never repeat one.
_FIRST_FRESH_SEED = 1001
# Leaves room for "-promote".
_LONGEST_PROMOTED_NAME = 56
# More seeds than a race ever has.
_MAX_BLOCKS = 100
_SEEDS_PER_SWEEP = 1000
_MAX_SWEEPS = 1_000_000


@dataclass(frozen=True)
class FormerRun:
    """A run that is to be trained again.

    Attributes:
        config: Its complete settings under dotted keys.
        source: Where they come from, for display: a file, or ``SWEEP/TRIAL``.
        plan: The plan that it was a trial of, if any; the new plan keeps its method label, protocol and resources.
    """

    config: Mapping[str, Scalar]
    source: str
    plan: SweepPlan | None = None


@dataclass(frozen=True)
class FreshSeeds:
    """The seeds of a benchmark's final runs: the same for all its methods, so that they can be compared in pairs.

    Attributes:
        suite: The benchmark's id.
        num_before: How many of them have been used for this method.
    """

    suite: str
    num_before: int = 0


def make_rerun_plan(request: PlanRequest, former: FormerRun) -> SweepPlan:
    """Plan one training with given settings, after the changes of ``--set`` and ``--epochs``.

    Raises:
        UserError: A flag is wrong.
    """
    request.check_counts()
    config, like = former.config, former.plan
    # The earlier run may have read its data elsewhere or on another machine; data prepared here takes precedence.
    at_home = find_store(str(config["data.name"]))
    config_here = config if at_home is None else {**config, "data.store": at_home}
    own = replace(like.resources, workers=1) if like else Resources()  # one trial runs in one actor
    resources, overrides = change_resources(ResourcesBlock(**vars(own)), request.overrides)
    base = require_settings_without_credentials(change_config(config_here, overrides, request.epochs))
    dataset, select_epoch_by = str(base["data.name"]), SelectBy(str(base["loop.select_epoch_by"]))
    # The last epoch selects no configuration, so a file that asks for it is compared by clean validation.
    select_config_by = SelectBy.CLEAN_VAL if select_epoch_by is SelectBy.LAST else select_epoch_by
    plan = SweepPlan(
        **make_identity("train", replace(request, kind="train").choose_name(dataset)),
        space=former.source,
        space_text=render_config(base),
        dataset=dataset,
        method=like.method if like else str(base["method.name"]),
        base=base,
        protocol=Protocol(like.protocol.select_config_by if like else select_config_by, select_epoch_by),
        resources=Resources(**dict(resources)),
        storage=request.storage_uri,
        parent=former.source if like else None,
    )
    return replace(plan, notes=make_rerun_notes(plan, int(config["loop.epochs"] or 0)))


def make_promotion_plan(
    plan: SweepPlan,
    params: Mapping[str, Scalar],
    *,
    seeds: int = 3,
    workers: int = 1,
    storage: str | None = None,
    choice: Choice | None = None,
    label_draws: tuple[int, ...] | None = None,
    fresh: FreshSeeds | None = None,
) -> SweepPlan:
    """Plan the final runs of a sweep's winner: at full length, one per fresh training seed, one after the other.

    Each label draw has seeds of its own, so that seeds are nested in draws.

    Args:
        plan: The sweep.
        params: The winner's.
        seeds: Number of runs on each label draw.
        workers: Ray Train workers of a run; each takes the resources that a worker of the sweep took.
        storage: Folder or URI for checkpoints; None is the promotion's own folder.
        choice: Why these params, if the rule chose them; its champion is trained with the same seeds.
        label_draws: See :class:`SweepPlan`.
        fresh: The benchmark that the runs are a part of, if any, and its seeds.

    Raises:
        UserError: ``seeds`` or ``workers`` is less than 1.
    """
    request = PlanRequest(seeds=seeds, workers=workers, storage=storage)
    request.check_counts()
    # The seeds of a race have chosen, so those that are reported come after all that a race could have.
    first = _first_seed(plan) if choice is None else first_race_seed(plan) + _MAX_BLOCKS
    if fresh is not None:
        first = _first_seed(plan) + _place(fresh.suite) + _MAX_BLOCKS + fresh.num_before
    points = [dict(params)]
    if choice is not None and choice.champion_point is not None:
        points.append(choice.champion_point)
    start_from = tuple(
        {**point, **draw, "loop.seed": first + number * seeds + run}
        for point in points
        for number, draw in enumerate(_settings_of(label_draws))
        for run in range(seeds)
    )
    gpus = plan.resources.gpus_per_worker
    return replace(
        plan,
        **make_identity("promote", check_name(f"{plan.name[:_LONGEST_PROMOTED_NAME]}-promote")),
        ranges={},
        start_from=start_from,
        num_trials=len(start_from),
        # A benchmark's are many, and one worker each does not need the whole machine.
        concurrency=1 if fresh is None or workers > 1 else min(len(start_from), plan.concurrency),
        scheduler="none",
        # NCCL does not let two ranks share a GPU.
        resources=replace(plan.resources, workers=workers, gpus_per_worker=gpus if workers == 1 else math.ceil(gpus)),
        storage=request.storage_uri,
        # The notes of the sweep are about its search, which is over.
        notes=(),
        parent=plan.id,
        # The limit was set for trials of the search, not for final runs on other resources.
        time_limit_s=None,
        backup=None,
        choice=choice,
        label_draws=label_draws,
        suite=None if fresh is None else fresh.suite,
        # The figures are of the search.
        cost=None,
        max_gpu_hours=None,
        reserve=None,
    )


def _settings_of(label_draws: tuple[int, ...] | None) -> list[dict[str, Scalar]]:
    """Return what each label draw changes: the first, which is the sweep's own, changes nothing."""
    further: list[dict[str, Scalar]] = [{"data.draw_seed": draw} for draw in (label_draws or ())[1:]]
    return [{}, *further]


def make_race_plan(
    plan: SweepPlan,
    points: Sequence[Mapping[str, Scalar]],
    choice: Choice,
    storage: str | None = None,
    label_draws: tuple[int, ...] | None = None,
    suite: str | None = None,
) -> SweepPlan:
    """Plan the race of a promotion: every candidate with the same fresh seeds, block by block, at full length.

    Args:
        plan: The sweep, whose resources and number of trials at a time it keeps.
        points: Params of each candidate; those of the champion come last.
        choice: What is known before the race.
        storage: As in :func:`make_promotion_plan`.
        label_draws: Those of the final runs to come; the race itself is on the sweep's own draw.
        suite: The benchmark that the race is a part of, if any.
    """
    first = first_race_seed(plan)
    start_from = tuple({**point, "loop.seed": first + block} for block in range(choice.blocks) for point in points)
    return replace(
        plan,
        **make_identity("race", check_name(f"{plan.name[:_LONGEST_PROMOTED_NAME]}-race")),
        ranges={},
        start_from=start_from,
        num_trials=len(start_from),
        scheduler="none",
        storage=storage,
        notes=(),
        parent=plan.id,
        time_limit_s=None,
        backup=None,
        choice=choice,
        label_draws=label_draws,
        suite=suite,
        # The figures are of the search.
        cost=None,
        max_gpu_hours=None,
        reserve=None,
    )


def first_race_seed(plan: SweepPlan) -> int:
    """Return the first seed of a sweep's race; every sweep has seeds of its own.

    A champion was chosen by the seeds of its race. With the same seeds it would get the same scores in the next one,
    and would have the luck that chose it twice.
    """
    return _first_seed(plan) + _place(plan.id)


def _place(name: str) -> int:
    """Return where the seeds of a sweep or a benchmark begin, counted from the first fresh seed."""
    return _SEEDS_PER_SWEEP * (1 + zlib.crc32(name.encode()) % _MAX_SWEEPS)


def _first_seed(plan: SweepPlan) -> int:
    return int(plan.base["loop.seed"] or 0) + _FIRST_FRESH_SEED


def drop_replaced(plans: Sequence[SweepPlan]) -> list[SweepPlan]:
    """Return the final runs of a benchmark, the latest first, without those that were run again as one had failed."""
    # Equal runs are planned again only then.
    kept: list[SweepPlan] = []
    for plan in plans:
        if all(plan.start_from != later.start_from for later in kept):
            kept.append(plan)
    return kept
