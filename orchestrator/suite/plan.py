"""Plan a benchmark: which datasets, and a sweep for each cell. Nothing is started or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.datasets.prepared import find_store
from orchestrator.errors import UserError
from orchestrator.home import clean_name
from orchestrator.planning.cost import Reserve
from orchestrator.planning.estimate import Survival, Timing, estimate_cost
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest, require_hours
from orchestrator.planning.shared_ranges import find_unequal_ranges
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.suite_budget import count_trial_images
from orchestrator.results.suite_record import Budget, SuiteRecord, make_record
from orchestrator.results.timings import add_cost
from orchestrator.suite.budget import count_trials
from search_spaces.schema import SearchSpace, load_space
from search_spaces.suite import Suite
from training.config.passes import Images
from training.config.run import Scalar
from training.config.spelling import suggest
from training.data.dataset_names import EMBEDDED

_MAX_NAME = 50
_DIGITS = 1500
"""Training scenes unless ``data.num_train`` says otherwise, as in training.data.digits, which imports torch."""
_VAL_FRAC = 0.2


@dataclass(frozen=True)
class SuiteRequest:
    """What a user asks for; what is None is the suite's.

    Attributes:
        methods: Labels; may be of methods that the suite lacks, if its spaces have them.
        datasets: Names of datasets of the suite.
        budget, budget_by: Replace the suite's budget.
        settings: ``--set``, on top of the suite's.
        num_cpus, num_gpus: Of the cluster; None is this machine.
        max_gpu_hours: What all runs of the benchmark together may take.
    """

    methods: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    budget: float | None = None
    budget_by: str | None = None
    seeds: int | None = None
    settings: Mapping[str, Scalar] | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    max_gpu_hours: float | None = None


@dataclass(frozen=True)
class CellPlan:
    """What one cell would search.

    Attributes:
        plan: Its sweep.
        images: Of its most expensive trial.
        amount: Its budget in images, trials or hours.
        num_train: Images of the train split.
    """

    plan: SweepPlan
    images: Images
    amount: float
    num_train: int

    @property
    def key(self) -> tuple[str, str]:
        """(dataset, method)."""
        return self.plan.dataset, self.plan.method

    @property
    def hours(self) -> float | None:
        """GPU-hours (CPU-hours) of search, race and reported runs, which nine in ten cells stay below, if known."""
        cost = self.plan.cost
        return None if cost is None else cost.p90_hours + cost.reserved_hours


def ask(suite: Suite, request: SuiteRequest) -> SuiteRecord:
    """Return what a user asks for, as it would be registered.

    Raises:
        SpaceError: A space of the suite is wrong or does not exist.
        UserError: A flag is wrong.
    """
    spaces = _find_datasets(suite)
    chosen = _choose("--datasets", request.datasets, spaces)
    known = dict.fromkeys(label for name in chosen for label in spaces[name].methods)
    if request.methods is not None:
        _choose("--methods", request.methods, known)
    settings = {**suite.file.fixed, **(request.settings or {})}
    record = make_record(
        suite, {name: spaces[name].reference for name in spaces}, _choose_budget(suite, request), settings
    )
    bounds = suite.file.bounds
    asked = request.methods or (*suite.file.methods, *bounds)
    if request.seeds is not None and request.seeds < 2:
        raise UserError(f"--seeds must be at least 2, as an interval needs them, but got --seeds={request.seeds}.")
    require_hours(request.max_gpu_hours)
    return replace(
        record,
        spaces={name: spaces[name].reference for name in chosen},
        methods=tuple(label for label in asked if label not in bounds),
        bounds=tuple(label for label in asked if label in bounds),
        seeds=request.seeds or suite.file.seeds,
        max_gpu_hours=request.max_gpu_hours,
    )


def _find_datasets(suite: Suite) -> dict[str, SearchSpace]:
    found: dict[str, SearchSpace] = {}
    for number, name in enumerate(suite.file.spaces):
        space = load_space(name)
        if space.dataset in found:
            raise suite.error(
                ("spaces", number),
                f"spaces.{number}, {name}, is a second space of {space.dataset}: a suite has one for each dataset. Put "
                f"it into a suite of its own.",
            )
        found[space.dataset] = space
    return found


def _choose(flag: str, asked: Sequence[str] | None, valid: Mapping[str, Any]) -> list[str]:
    for word in asked or ():
        if word not in valid:
            raise UserError(f"{flag} must be among those of the suite, but got {word}. {suggest(word, valid)}")
    return list(valid) if asked is None else list(dict.fromkeys(asked))


def _choose_budget(suite: Suite, request: SuiteRequest) -> Budget:
    file = suite.file.budget
    if request.budget is None and request.budget_by in (None, file.by):
        return Budget(file.by, float(file.amount), file.of)
    by = request.budget_by or file.by
    if request.budget is None:
        raise UserError(f"--budget-by {by} needs an amount, as the suite's is by {file.by}. Add --budget N")
    if request.budget <= 0 or (by == "trials" and request.budget % 1):
        what = "a whole number of trials" if by == "trials" else "greater than 0"
        raise UserError(f"--budget must be {what}, but got --budget={request.budget:g}.")
    return Budget(by, request.budget)


def plan_cells(record: SuiteRecord, request: SuiteRequest | None = None) -> list[CellPlan]:
    """Plan the search of every cell.

    Args:
        record: The benchmark.
        request: For the resources of a cluster.

    Raises:
        SpaceError, UserError: A space lacks a method, a setting is wrong, methods of a dataset have different ranges of
            learning rate, weight decay or batch, or a budget is less than one trial.
    """
    found = []
    for dataset, reference in record.spaces.items():
        space = load_space(reference)
        plans = {
            label: _plan_cell(record, space, label, request)
            for label in (*record.methods, *record.bounds)
            if label in space.methods or _refuse(space, label)
        }
        if record.recipe != "published" and (unequal := find_unequal_ranges(list(plans.values()))) is not None:
            raise UserError(
                f"The methods of {record.name} would not be tuned alike on {dataset}: {unequal}. Search the same "
                f"values of it for all, under shared: of {reference}."
            )
        num_train = count_train_images(next(iter(plans.values())))
        images = {label: count_trial_images(plan, num_train) for label, plan in plans.items()}
        amount = _find_amount(record, space, images, num_train, request)
        for label, plan in plans.items():
            num_trials = count_trials(plan, record.budget, images[label], amount)
            sized = replace(plan, num_trials=num_trials, concurrency=min(plan.concurrency, num_trials))
            found.append(CellPlan(_add_cost(record, sized), images[label], amount, num_train))
    return found


def _add_cost(record: SuiteRecord, plan: SweepPlan) -> SweepPlan:
    """Return the search of a cell with its cost, and with the runs after it that a limit of GPU-hours keeps."""
    plan = replace(plan, reserve=Reserve(record.race_frac, record.seeds))
    slots = plan.cost.slots if plan.cost is not None else plan.concurrency
    # What pruned trials leave of a budget is spent on further ones.
    whole = Survival({plan.epochs: 1.0}, "the budget is spent, whatever is stopped early")
    survival = None if record.budget.by == "trials" else whole
    if record.max_gpu_hours is not None:
        return add_cost(plan, slots, survival=survival)
    timing = Timing.of_space(plan)
    return replace(plan, cost=None if timing is None else estimate_cost(plan, timing, slots, survival))


def _refuse(space: SearchSpace, label: str) -> bool:
    raise UserError(f"{space.source} has no method {label}. {suggest(label, space.methods)}")


def _plan_cell(record: SuiteRecord, space: SearchSpace, label: str, request: SuiteRequest | None) -> SweepPlan:
    scheduler = {} if record.scheduler is None else {"scheduler.name": record.scheduler}
    name = f"{record.name}-{label}" if len(record.spaces) == 1 else f"{record.name}-{space.dataset}-{label}"
    plan = make_plan(
        PlanRequest(
            space,
            method=label,
            recipe=record.recipe,
            overrides={**scheduler, **record.settings},
            name=clean_name(name[:_MAX_NAME]),
            num_cpus=None if request is None else request.num_cpus,
            num_gpus=None if request is None else request.num_gpus,
        )
    )
    if plan.min_gain is not None:
        raise UserError(
            f"budget.min_gain ends the search of {label} on {plan.dataset} early, but a benchmark gives every method "
            f"the same budget. Leave it out of {space.source} and of --set, or override it: --set budget.min_gain=null"
        )
    return replace(plan, suite=record.id)


def _find_amount(
    record: SuiteRecord,
    space: SearchSpace,
    images: Mapping[str, Images],
    num_train: int,
    request: SuiteRequest | None,
) -> float:
    """Return the budget of a dataset's cells in its unit."""
    of = record.budget.of
    if of is None:
        return record.budget.amount
    known = images.get(of)
    if known is None:
        if of not in space.methods:
            _refuse(space, of)
        known = count_trial_images(_plan_cell(record, space, of, request), num_train)
    return record.budget.amount * known.total


def count_train_images(plan: SweepPlan) -> int:
    """Return the images of a plan's train split: of the prepared data, or as Table 1 of IGNORE's supplement has them.

    Raises:
        UserError: The data are not prepared, and not in that table.
    """
    if plan.dataset == EMBEDDED:
        return int(plan.base.get("data.num_train") or _DIGITS)
    from training.data.store.manifest import read_manifest
    from training.data.table1 import PAPER

    place = plan.base.get("data.store") or find_store(plan.dataset)
    if place is not None:
        counts = read_manifest(str(place)).counts
        held_out = 0 if "val" in counts else round(counts["train"] * _VAL_FRAC)
        return counts["train"] - held_out
    if plan.dataset in PAPER:
        return PAPER[plan.dataset].train
    raise UserError(
        f"{plan.dataset} is not prepared, so its images cannot be counted. Prepare it: orchestrator data prepare "
        f"{plan.dataset} --source DIR"
    )
