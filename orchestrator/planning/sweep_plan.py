"""The plan of a sweep, a training, an ablation or a promotion: everything that is decided before it starts.

It is written once as ``plan.json`` and never changed; what happens later (an extension, say) is in the journal.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.planning.choice import Choice
from orchestrator.planning.cost import Cost, Reserve
from search_spaces.blocks import Sampler, SchedulerName, Startup
from search_spaces.conditions import Conditions, count_grid
from search_spaces.ranges import Range
from training.config.run import Scalar, TrainConfig
from training.config.strict import explain, shown
from training.counts import counted
from training.path_names import require_path_name
from training.selection import Protocol

Kind = Literal["sweep", "train", "promote", "ablate", "race"]
Params = dict[str, Scalar]
MAX_TIME_S = 253_402_300_799
"""The last second that a calendar has."""
_MAX_COUNT = 10**9
_MAX_NUMBER = 1e300


@dataclass(frozen=True)
class Resources:
    """The resources of one trial: a number of workers, each with its CPUs and GPUs (0.5 means a shared GPU)."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0

    def describe(self) -> str:
        """Return the resources as text: ``1 worker x 1 CPU + 0.5 GPU``."""
        text = f"{counted(self.workers, 'worker')} x {counted(self.cpus_per_worker, 'CPU')}"
        gpus = f" + {self.gpus_per_worker:g} GPU{'s' * (self.gpus_per_worker > 1)}"
        return text + (gpus if self.gpus_per_worker else "")

    @property
    def hours_unit(self) -> str:
        """What an hour of a trial is counted in: of its GPUs, or of its CPUs if it has none."""
        return "GPU-hours" if self.gpus_per_worker else "CPU-hours"

    @property
    def units(self) -> float:
        """The GPUs of a trial, or its CPUs if it has none."""
        return self.workers * (self.gpus_per_worker or self.cpus_per_worker)

    def hours(self, seconds: float) -> float:
        """Return what a trial of this many seconds costs, in ``hours_unit``."""
        return seconds / 3600 * self.units


@dataclass(frozen=True)
class SweepPlan:
    """What will run.

    A new field needs a default, because plans that earlier versions wrote do not have it.

    Attributes:
        kind: ``sweep``, ``train`` (one trial, no search), ``promote`` (K trials, one per fresh seed, then as many of
            the champion), ``ablate`` (K trials of each variant) or ``race`` (a promotion's candidates on common seeds).
        created: Unix time in s.
        space, space_text: The name of the search space as it was given, and the text of its file.
        method: The label of the method block.
        base: The complete settings of the trials under dotted keys, before a trial's params.
        ranges: Searched key -> range; empty if nothing is searched.
        start_from: Points that are tried first; keys that a point leaves out are drawn.
        startup_trials: Trials, including start points, before TPE or the Gaussian process takes over.
        startup: How their points are drawn.
        scheduler, grace_epochs, reduction_factor, keep: ``none``; or ASHA: every trial gets ``grace_epochs``, then one
            in ``reduction_factor`` continues after each rung; or the screen: the best ``keep`` of all continue.
        storage: URI or folder for checkpoints; None is the sweep's own folder.
        cap_gib: Disk space for the checkpoints of all trials.
        notes: What the user should know before it starts.
        parent: The sweep that is promoted, or the run that is trained again.
        time_limit_s: Longest time that a trial may take.
        epoch_s: Measured seconds of an epoch of these settings with one worker, if known.
        variants: For an ablation: the labels of the method and its variants, in the order of ``start_from``.
        keep_weights: For a promotion: keep the best weights of every final run, not only those of the first seed.
        backup: URI to which the journal is copied from the start; later drivers may choose another.
        choice: For a race, and a promotion by the rule: what was chosen and why.
        label_draws: For a promotion: seeds of the draws of the observed labels that its final runs have, first that of
            the sweep; empty if the dataset gives its observed labels. None, as in plans of earlier versions, is the
            sweep's own draw.
        suite: The benchmark that it is a part of, by its id.
        cost: What it is expected to cost, if the time of an epoch is known.
        max_gpu_hours: No new trial starts that could bring search and promotion above this; CPU-hours if the trials use
            no GPU. An extension may raise it.
        reserve: What that limit keeps for what follows; None is a promotion after a sweep, and else nothing.
        min_gain: The search ends once the trials that are left are expected to raise the best score by less, in points.
        acts_when: Searched setting -> another one -> the values of that one with which the first acts. Trials have only
            the settings that act in them.
    """

    # A field that this version does not know may change what runs: refuse it rather than drop it.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: str
    name: str
    kind: Kind
    created: float
    space: str
    space_text: str
    dataset: str
    method: str
    base: Params
    protocol: Protocol
    # Without the fields below, the plan is one trial of the base settings.
    ranges: dict[str, Range] = field(default_factory=dict)
    start_from: tuple[Params, ...] = ({},)
    num_trials: int = 1
    concurrency: int = 1
    sampler: Sampler = "tpe"
    search_seed: int = 0
    startup_trials: int = 0
    scheduler: SchedulerName = "none"
    grace_epochs: int = 1
    reduction_factor: float = 3.0
    resources: Resources = Resources()
    storage: str | None = None
    cap_gib: float = 20.0
    notes: tuple[str, ...] = ()
    parent: str | None = None
    time_limit_s: float | None = None
    epoch_s: float | None = None
    variants: tuple[str, ...] = ()
    keep_weights: bool = False
    backup: str | None = None
    choice: Choice | None = None
    label_draws: tuple[int, ...] | None = None
    suite: str | None = None
    startup: Startup = "random"
    cost: Cost | None = None
    max_gpu_hours: float | None = None
    reserve: Reserve | None = None
    acts_when: dict[str, dict[str, list[Scalar]]] = field(default_factory=dict)
    min_gain: float | None = None
    keep: int = 3

    @property
    def epochs(self) -> int:
        """Full length of a trial."""
        epochs = self.base["loop.epochs"]
        assert isinstance(epochs, int)
        return epochs

    @property
    def num_points(self) -> int | None:
        """The number of different points, or None if it is infinite."""
        return count_points(self.ranges, self.sampler, self.acts_when) if self.ranges else len(self.start_from)

    @property
    def num_final(self) -> int:
        """Number of final runs of a promotion's winner, the first of its trials; those of the champion follow."""
        return self.num_trials if self.choice is None else self.choice.seeds * self.num_draws

    @property
    def num_draws(self) -> int:
        """Number of label draws of a promotion's final runs."""
        return max(1, len(self.label_draws or ()))

    @property
    def num_seeds(self) -> int:
        """Number of final runs on each label draw; the first of a promotion's trials are those on the sweep's own."""
        return self.num_final // self.num_draws

    def count_reserved(self, full_runs: float) -> int:
        """Return how many runs of full length are kept for what follows, after so many runs of full length."""
        reserve = self.reserve or (Reserve() if self.kind == "sweep" else Reserve(0, 0))
        return reserve.count(full_runs)

    @property
    def screen_epoch(self) -> int | None:
        """The epoch at which the screen compares all trials; None with another scheduler."""
        return self.grace_epochs if self.scheduler == "screen" and self.grace_epochs < self.epochs else None

    def count_kept(self, num_trials: int) -> int:
        """Return how many of so many trials the scheduler lets run to their end, as far as that is fixed."""
        return num_trials if self.screen_epoch is None else min(self.keep, num_trials)

    def rungs(self) -> list[int]:
        """Return the epochs at which the scheduler may stop a trial; empty without pruning."""
        if self.screen_epoch is not None:
            return [self.screen_epoch]
        rungs: list[int] = []
        epoch = float(self.grace_epochs)
        while self.scheduler == "asha" and epoch < self.epochs:
            # Rounded only here, so that the roundings do not add up from rung to rung.
            rungs.append(math.ceil(epoch))
            epoch *= self.reduction_factor
        return rungs

    def __str__(self) -> str:
        """Return what `orchestrator plan` shows."""
        from orchestrator.planning.page import render_plan  # that module imports this one

        return "\n".join(render_plan(self))

    def to_json(self) -> str:
        """Return the plan as the text of ``plan.json``."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        # Only the given fields: a range of one type does not need the fields of the others.
        plain["ranges"] = {key: found.model_dump(exclude_defaults=True) for key, found in self.ranges.items()}
        plain["protocol"] = vars(self.protocol)
        plain["resources"] = vars(self.resources)
        plain["choice"] = None if self.choice is None else vars(self.choice)
        plain["cost"] = None if self.cost is None else vars(self.cost)
        plain["reserve"] = None if self.reserve is None else vars(self.reserve)
        return json.dumps(plain, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> SweepPlan:
        """Return the plan that :meth:`to_json` of this or an earlier version wrote.

        Raises:
            ValueError: It is not a valid plan; the message names every missing, unknown and invalid field.
        """
        plain = text.encode() if isinstance(text, str) else text
        plain = plain.removeprefix(codecs.BOM_UTF8)  # an editor may have put it in front
        _require_plain_numbers(plain)
        try:
            plan = _adapter().validate_json(plain)
        except ValidationError as error:
            raise ValueError("; ".join(map(_describe_fault, error.errors()))) from None
        plan._check()
        return plan

    def _check(self) -> None:
        """Check what every reader of a plan relies on and types do not say."""
        # Each of these becomes the name of a folder or a part of it.
        for name, value in (("id", self.id), ("name", self.name), ("dataset", self.dataset)):
            require_path_name(value, name)
        if "data.name" in self.base:
            require_path_name(self.base["data.name"], "base.data.name")
        if not 0 <= self.created < MAX_TIME_S:
            raise ValueError(f"created must be a time in seconds, but got {self.created}")
        epochs = self.base.get("loop.epochs")
        if type(epochs) is not int or not 1 <= epochs <= _MAX_COUNT:
            raise ValueError(f"base.loop.epochs must be a number of epochs, but got {shown(epochs)}")
        counts = {"num_trials": 0, "concurrency": 1, "startup_trials": 0, "grace_epochs": 1, "keep": 1}
        for name, least in counts.items():
            if not least <= getattr(self, name) <= _MAX_COUNT:
                raise ValueError(f"{name} must be from {least} to {_MAX_COUNT}, but got {getattr(self, name)}")
        if self.max_gpu_hours is not None and not self.max_gpu_hours > 0:
            raise ValueError(f"max_gpu_hours must be above 0, but got {self.max_gpu_hours}")
        if self.min_gain is not None and not self.min_gain > 0:
            raise ValueError(f"min_gain must be above 0, but got {self.min_gain}")
        # Otherwise the rungs of the pruner would have no end.
        if not 1 < self.reduction_factor <= _MAX_COUNT:
            raise ValueError(f"reduction_factor must be above 1, but got {self.reduction_factor}")


@cache
def _adapter() -> TypeAdapter[SweepPlan]:
    return TypeAdapter(SweepPlan)


def _require_plain_numbers(text: bytes) -> None:
    """Check that every number is one that can be computed with: a library would raise an error that names no field."""
    try:
        waiting = [("", json.loads(text))]
    except (ValueError, RecursionError):
        return  # the parser of the plan says what is wrong
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{key}" if name else str(key), found) for key, found in inner]
        elif isinstance(value, int | float) and not abs(value) < _MAX_NUMBER:  # NaN is not below anything
            raise ValueError(f"{name} must be a number below {_MAX_NUMBER:.0e}, but got {shown(value)[:40]}")


def _describe_fault(fault: ErrorDetails) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{name} is missing"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{name} is unknown to this version, which may be older than the one that wrote it"
    return f"{name} {explain(fault)}" if name else fault["msg"]


def count_points(ranges: Mapping[str, Range], sampler: Sampler, acts_when: Conditions | None = None) -> int | None:
    """Return the number of different points: 1 without ranges, None if it is infinite."""
    if not ranges or sampler == "grid":
        return count_grid({key: found.grid() for key, found in ranges.items()}, acts_when or {})
    return None


def trial_config(plan: SweepPlan, params: Mapping[str, Scalar]) -> TrainConfig:
    """Return the settings of one trial: the plan's, changed by its params. All params pass through here.

    Raises:
        ConfigError: A param is not a setting of the run, or out of range.
    """
    base: Mapping[str, Scalar] = plan.base
    # The champion of a promotion may be of another method, which does not have the settings of this one.
    if params.get("method.name", base.get("method.name")) != base.get("method.name"):
        base = {key: value for key, value in base.items() if not key.startswith("method.")}
    return TrainConfig.from_flat({**base, **params})
