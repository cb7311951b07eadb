"""The parts of a search space: settings and ranges, budget, search, scheduler, resources."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from search_spaces.ranges import Range
from search_spaces.section import ScalarValue, Section, fault


def none_as(empty: Any) -> BeforeValidator:
    """Treat a key with nothing under it (``ranges:``) as an empty one."""
    return BeforeValidator(lambda value: empty if value is None else value)


Sampler = Literal["tpe", "gp", "random", "grid"]
Startup = Literal["random", "quasi_random"]
SchedulerName = Literal["asha", "screen", "none"]

# A key with nothing under it is common while somebody edits a file, and YAML reads it as null.
Flat = Annotated[dict[str, ScalarValue], none_as({})]
Ranges = Annotated[dict[str, Range], none_as({})]
Points = Annotated[list[Flat], none_as([])]
Seconds = Annotated[float, Field(gt=0)]
# Setting -> another setting -> the values of that one with which the first has an effect.
Conditions = Annotated[dict[str, Annotated[dict[str, list[ScalarValue]], Field(min_length=1)]], none_as({})]


def _refuse_fixed_and_searched(fixed: Flat, ranges: Iterable[str]) -> None:
    for key in ranges:
        if key in fixed:
            raise fault("must be either fixed or searched, but is under both. Remove one of them", "ranges", key)


class Block(Section):
    """Settings and ranges under dotted keys (``optim.lr``)."""

    fixed: Flat = Field(default_factory=dict)
    ranges: Ranges = Field(default_factory=dict)

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        _refuse_fixed_and_searched(self.fixed, self.ranges)
        return self


class MethodBlock(Block):
    """What one method adds to the shared block; where both give a key, this one wins.

    Attributes:
        name: The method, where the label of the block is that of a variant; None means the label.
        start_from: Points tried first, over the ranges of this block and the shared one. What a point leaves out is
            drawn.
        published: How the method's authors train it on this dataset, for ``--recipe published``: these settings on top
            of what is fixed above, and none of the ranges above. Every key searched above must be given here. Its own
            ranges are the grid from which the authors chose on validation data; all of it is run. None: unknown.
        epoch_s: Measured seconds of an epoch with the space's own settings and one worker, for the estimate of
            ``plan``.
        acts_when: Settings that have an effect only with some values of others; where they have none, they are not
            searched, even if they have a range.
    """

    name: str | None = None
    acts_when: Conditions = Field(default_factory=dict)
    start_from: Points = Field(default_factory=list)
    published: Block | None = None
    epoch_s: Seconds | None = None


class WrittenShared(Block):
    """The shared block as a file has it.

    Attributes:
        start: What every start point of every method has, unless the method or the point says otherwise.
    """

    start: Flat = Field(default_factory=dict)


class WrittenBlock(Section):
    """A method block as a file has it: complete, or what changes in the block that it builds on.

    Attributes:
        like: The block that this one starts from, its published settings excepted.
        ranges: As in :class:`Block`; null for a key that is no longer searched.
        start: What every start point of this block has, unless the point says otherwise.
        acts_when: As in :class:`MethodBlock`.
    """

    name: str | None = None
    like: str | None = None
    acts_when: Conditions = Field(default_factory=dict)
    fixed: Flat = Field(default_factory=dict)
    ranges: Annotated[dict[str, Range | None], none_as({})] = Field(default_factory=dict)
    start: Flat = Field(default_factory=dict)
    start_from: Points = Field(default_factory=list)
    published: Block | None = None
    epoch_s: Seconds | None = None

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        _refuse_fixed_and_searched(self.fixed, self.ranges)
        return self


class ShippedBlock(WrittenBlock):
    """A method block in ``search_spaces/methods/``, whose published settings differ from dataset to dataset."""

    published_on: dict[str, Block] = Field(default_factory=dict)


class ProtocolBlock(Section):
    """Which data selects the configuration, and which selects the epoch."""

    select_config_by: Literal["published", "clean-val", "observed-val", "covering-rate", "unbiased-risk"] = "clean-val"
    select_epoch_by: Literal["clean-val", "observed-val", "covering-rate", "unbiased-risk", "last"] = "clean-val"


class Budget(Section):
    """How much may be spent.

    Attributes:
        trials: Trials of a sweep.
        epochs: Full length of a trial.
        startup_trials: Trials, start points included, before the sampler learns.
        time_limit_s: Seconds that a trial may take, from the start of its process; a longer one fails with TIMEOUT.
            None means no limit.
        cap_gib: Disk space for the checkpoints of a sweep.
        min_gain: A sweep ends early once the trials that are left are expected to raise the best score by fewer points
            than this together. None means that all trials run.
    """

    trials: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    startup_trials: Annotated[int, Field(ge=0)] = 10
    time_limit_s: Seconds | None = None
    cap_gib: Annotated[float, Field(gt=0)] = 20.0
    min_gain: Annotated[float, Field(gt=0)] | None = None


class Search(Section):
    """What proposes the next point, and its seed.

    Attributes:
        sampler: ``tpe``, ``gp`` (a Gaussian process; asking takes up to a second), ``random`` or ``grid``.
        startup: Points before the sampler learns, and all points of ``random``: drawn independently (``random``) or
            spread evenly over the ranges (``quasi_random``).
    """

    sampler: Sampler = "tpe"
    startup: Startup = "random"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Scheduler(Section):
    """What stops trials early.

    Attributes:
        name: ``asha``, ``screen`` (all trials run to one epoch, then the best of them to their end) or ``none``.
        reduction_factor: Of ``asha``: one in this many trials continues at each rung.
        grace_epochs: Epochs that every trial gets; None means the largest warm-up of the space + 2, and for ``screen``
            30 % of the epochs.
        keep: Of ``screen``: how many trials continue; None is half of them. With these two, the screen lost nothing on
            four recorded sweeps (``benchmarks/results/search_recorded.md``).
    """

    name: SchedulerName = "asha"
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    grace_epochs: Annotated[int, Field(ge=1)] | None = None
    keep: Annotated[int, Field(ge=1)] | None = None


class ResourcesBlock(Section):
    """What one trial takes; trials with one worker may share a GPU (0.5)."""

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.gpus_per_worker % 1:
            got = f"but got {self.gpus_per_worker:g}"
            if self.workers > 1:
                raise fault(
                    f"must be a whole number with several workers, because they cannot share a GPU, {got}. Use 1",
                    "gpus_per_worker",
                )
            if self.gpus_per_worker > 1:
                raise fault(
                    f"must be a part of one GPU or whole ones, {got}. Use {math.ceil(self.gpus_per_worker)}",
                    "gpus_per_worker",
                )
        return self
